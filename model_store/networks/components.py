"""A component of a diffusers pipeline, built from verified bytes by the library's own class."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_store.inspect_safetensors import check_safetensors_file
from model_store.limits import StoreLimits
from model_store.manifest import Component
from model_store.networks.component_classes import NETWORKS, TOKENIZERS, component_class
from model_store.networks.component_files import read_config, shards
from model_store.networks.torch_graph import SPARE_NUMBERS, NumberBudget
from model_store.reading import Read, copied
from services.core.errors import InvalidManifest, InvalidNetwork, UnsafeModel

_LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


def load_network(name: str, component: Component, read: Read, limits: StoreLimits) -> nn.Module:
    """A component with weights, in float32, in evaluation mode.

    Args:
        name: what to call it in an error.
        component: its class and files.
        read: gives the verified bytes of a stored file.
        limits: for its weight files.

    Raises:
        InvalidManifest: its class is none that Atelier knows, or a configuration cannot be read.
        InvalidNetwork: the configuration cannot be built, or the weights are not its own.
        UnsafeModel: a file is a pickle, or asks for code.
    """
    if component.kind not in NETWORKS:
        raise InvalidManifest(f"component '{name}' of class '{component.kind}' has no weights")
    with _private_folder(component, read) as folder:
        config = _checked_config(name, folder)
        kind = component_class(component.kind)
        _refuse_larger(name, component.kind, kind, config, _numbers(folder, limits))
        return _from_pretrained(name, component.kind, kind, str(folder))


def load_tokenizer(name: str, component: Component, read: Read) -> Any:
    """A tokenizer of transformers.

    Raises:
        InvalidManifest: its class is none that Atelier knows, or its files do not make one.
        UnsafeModel: a file asks for code, or names a file elsewhere.
    """
    if component.kind not in TOKENIZERS:
        raise InvalidManifest(f"component '{name}' of class '{component.kind}' is no tokenizer")
    with _private_folder(component, read) as folder:
        for path in sorted(folder.glob("*_config.json")):
            read_config(f"{name}/{path.name}", path.read_bytes())
        kind = component_class(component.kind)
        try:
            return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except _LOAD_ERRORS as error:
            raise InvalidManifest(f"tokenizer '{name}' cannot be read: {error}") from error


def _checked_config(name: str, folder: Path) -> dict[str, Any]:
    """The component's configuration, after a look at everything that lies beside it."""
    present = {path.name for path in folder.iterdir()}
    if "config.json" not in present:
        raise InvalidManifest(f"component '{name}' has no config.json")
    for file in sorted(present):
        if file.endswith(".index.json"):
            foreign = set(shards(f"{name}/{file}", (folder / file).read_bytes())) - present
            if foreign:
                raise InvalidManifest(f"'{name}/{file}' names '{min(foreign)}', which is absent")
        elif file.endswith(".json"):
            read_config(f"{name}/{file}", (folder / file).read_bytes())
        elif not file.endswith(".safetensors"):
            raise UnsafeModel(f"'{name}/{file}' is neither safetensors nor JSON: never loaded")
    return read_config(f"{name}/config.json", (folder / "config.json").read_bytes())


def _numbers(folder: Path, limits: StoreLimits) -> int:
    """How many numbers the weight files hold."""
    return sum(
        math.prod(shape)
        for path in sorted(folder.glob("*.safetensors"))
        for shape in check_safetensors_file(path.name, path, limits).values()
    )


def _refuse_larger(
    name: str, label: str, kind: Any, config: Mapping[str, Any], stored: int
) -> None:
    """Build it without memory first, and stop when it outgrows its own weights."""
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"), NumberBudget(name, 2 * stored + SPARE_NUMBERS):
            if NETWORKS[label] == "diffusers":
                kind.from_config(plain)
            else:
                kind(kind.config_class.from_dict(plain))
    except _LOAD_ERRORS as error:
        raise InvalidNetwork(
            f"component '{name}' cannot be built as {label} from its config.json: {error}"
        ) from error


def _from_pretrained(name: str, label: str, kind: Any, folder: str) -> nn.Module:
    if NETWORKS[label] == "diffusers":
        own = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    else:
        own = {"dtype": torch.float32}
    try:
        module, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **own,
        )
    except _LOAD_ERRORS as error:
        raise InvalidNetwork(
            f"component '{name}' cannot be read as {label}: {str(error)[:500]}"
        ) from error
    if report["missing_keys"]:
        raise InvalidNetwork(
            f"the files of component '{name}' lack weight '{min(report['missing_keys'])}' of "
            f"{label} with this configuration"
        )
    network: nn.Module = module
    return network.float().eval().requires_grad_(requires_grad=False)


@contextmanager
def _private_folder(component: Component, read: Read) -> Iterator[Path]:
    """A private folder that holds exactly the component's verified files, until the block ends.

    The libraries read folders only. What they read is what was verified, whatever happens to the
    store meanwhile. It lies below ``TMPDIR``, which needs room for the largest component.
    """
    with tempfile.TemporaryDirectory(prefix="atelier-component-") as folder:
        for name, stored in component.files.items():
            copied(read, stored.file, Path(folder) / name)
        yield Path(folder)
