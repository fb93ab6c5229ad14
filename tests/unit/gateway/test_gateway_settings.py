"""Settings, and what is refused before the service listens."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.core.errors import InvalidParameter
from services.gateway.settings import GatewaySettings, check_bind


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_MAX_IMAGES", "3")
    monkeypatch.setenv("ATELIER_API_KEYS", f'["{"a" * 64}"]')
    assert GatewaySettings().max_images == 3
    assert GatewaySettings().api_keys == ("a" * 64,)
    assert GatewaySettings(**{"max_images": 5}).max_images == 5


@pytest.mark.parametrize(
    "wrong", [{"max_images": 0}, {"api_keys": ["plain"]}, {"port": 70000}, {"max_image": 1}]
)
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.5", "example.org"])  # noqa: S104
def test_a_public_bind_needs_a_key(host: str) -> None:
    with pytest.raises(InvalidParameter, match="API key"):
        check_bind(GatewaySettings(host=host))
    check_bind(GatewaySettings(host=host, api_keys=("a" * 64,)))
    check_bind(GatewaySettings(host=host, allow_public_bind=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    check_bind(GatewaySettings(host=host))
