"""Whatever is sent to any route, the answer is one that the OpenAPI document describes.

Schemathesis draws requests from the document, right and wrong ones; routes that are added are
tested by being described. Few examples in quick runs, many in slow ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.cascade import Cascades
from services.serving.in_process import InProcessBackend
from tests.unit.gateway.conftest import ScriptedBackend


def never_fails(context: Any, response: Any, case: Any) -> bool | None:
    """No answer is a fault of the server's; a deadline that the client chose may pass, though."""
    if response.status_code == HTTPStatus.GATEWAY_TIMEOUT:
        assert "deadline" in response.text
        return None
    return not_a_server_error(context, response, case)


CHECKS = [
    never_fails,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FEW, MANY = 3, 60
PHASES = (Phase.explicit, Phase.generate)


def document() -> dict[str, Any]:
    """The OpenAPI document; it does not depend on the models."""
    app = create_app(
        ScriptedBackend(), GatewaySettings(), metrics=GatewayMetrics(CollectorRegistry())
    )
    return dict(app.openapi())


DOCUMENT = document()
OPERATIONS = sorted(
    (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method in ("get", "post", "put", "patch", "delete")
)


@pytest.fixture(scope="module")
def schema(tiny_backend: InProcessBackend) -> Iterator[Any]:
    limits = GatewaySettings(
        default_model="tiny-diffusion", max_steps=8, max_images=2, max_samples=4, max_deadline=20
    )
    metrics = GatewayMetrics(CollectorRegistry())
    app = create_app(Cascades(tiny_backend), limits, metrics=metrics)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def check(schema: Any, path: str, method: str, examples: int) -> None:
    operation = schema[path][method.upper()]

    @settings(
        max_examples=examples,
        phases=PHASES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(operation.as_strategy()))
    def conforms(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    call: Callable[[], None] = conforms
    call()


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=str)
def test_a_route_answers_as_it_is_described(schema: Any, path: str, method: str) -> None:
    check(schema, path, method, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=str)
def test_a_route_answers_as_it_is_described_whatever_is_sent(
    schema: Any, path: str, method: str
) -> None:
    check(schema, path, method, MANY)
