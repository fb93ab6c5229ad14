"""How tests are shared out among processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SERVERS = ("fused", "apart")
"""Parameters that name the servers which tests of many modules share."""


class ByServer(LoadScopeScheduling):
    """The tests of one server stay in one process; those of a server of their own, by module.

    xdist's own ``loadgroup`` would do, were its groups not lost on pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, parameters = nodeid.partition("[")
        named = parameters.rstrip("]").split("-")
        return next((name for name in SERVERS if name in named), module.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Ours for ``--dist loadgroup``; every other is xdist's."""
    return ByServer(config, log) if config.getvalue("dist") == "loadgroup" else None
