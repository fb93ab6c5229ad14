"""Every parameter that a family knows can be said over HTTP."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import services.families
from services.core.parameters import Parameters
from services.gateway.schemas import (
    EditRequest,
    EncodeRequest,
    GenerateRequest,
    LikelihoodRequest,
)


def _kinds(root: type[Parameters]) -> Iterator[type[Parameters]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)


@pytest.mark.parametrize(
    "family", [module.name for module in pkgutil.iter_modules(services.families.__path__)]
)
def test_the_gateway_knows_every_parameter_of_the_family(family: str) -> None:
    importlib.import_module(f"services.families.{family}")
    requests = (GenerateRequest, EditRequest, LikelihoodRequest, EncodeRequest)
    said = {name for request in requests for name in request.model_fields}
    kinds = [kind for kind in _kinds(Parameters) if kind.__module__.startswith("services.")]
    assert kinds
    for kind in kinds:
        unknown = set(kind.model_fields) - said
        assert not unknown, f"{kind.__module__}.{kind.__name__}: {unknown}"
