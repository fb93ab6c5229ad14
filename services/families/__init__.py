"""One package per family: a package that exports ``ENGINE`` is one; nothing else registers it."""

from __future__ import annotations

import importlib
import pkgutil

from services.core.engine import Engine


def discover() -> dict[str, type[Engine]]:
    """Every family's engine by family name."""
    packages = [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in packages]
    return {module.ENGINE.family: module.ENGINE for module in modules}
