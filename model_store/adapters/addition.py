"""Adding an adapter: read, check against its model, try beside plain rows; only then is it kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from model_store.adapters import embeddings
from model_store.adapters.lora import adaptable_layers, load_tensors, opened, packed, read_lora
from model_store.adapters.lora_keys import Base, Layers
from model_store.adapters.manifest import AdapterManifest, digest_of
from model_store.adapters.opening import control_network
from model_store.draft import model_id_from
from model_store.file_content import refuse_unsafe, scan_folder
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, Pipeline, is_model_id
from model_store.networks.adaptable import DENOISER, AdaptableNetwork
from model_store.networks.component_classes import NETWORKS
from model_store.networks.component_files import MAX_CONFIG_BYTES, read_config
from model_store.networks.components import load_network
from model_store.networks.export_choice import open_export
from model_store.networks.hardware import Hardware
from model_store.networks.measurements import Measurements
from model_store.plain_files import digest, read_plain
from model_store.reading import StoredFiles
from model_store.store import Store
from services.core.adaptation import Addition, ScaledLora
from services.core.errors import EngineFailure, InvalidManifest, InvalidNetwork, UnsafeModel
from services.core.validation import explain

TRIED_ROWS = 3
CONTROLNET = "ControlNetModel"

_CPU = torch.device("cpu")
_CONTROL_WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.\w+)?\.safetensors")
_WEIGHTS, _CONFIG = "diffusion_pytorch_model.safetensors", "config.json"


@dataclass(slots=True)
class _Found:
    """What was read of an adapter: fields of its manifest, and the bytes of its files."""

    fields: dict[str, Any]
    contents: dict[str, bytes]
    components: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AddedAdapter:
    """An adapter that was stored, and what was made of it."""

    manifest: AdapterManifest
    notes: Sequence[str]


def add_adapter(
    store: Store,
    path: Path,
    *,
    base: str,
    name: str | None = None,
    token: str | None = None,
    threads: int = 2,
) -> AddedAdapter:
    """Check an adapter against its model and put it into the user's store.

    Args:
        store: where to put it, and where the model is.
        path: a safetensors file (a LoRA or a textual inversion), or a ControlNet's folder.
        base: the model that it is for.
        name: what to call it, instead of what the file is called.
        token: the word of a textual inversion, instead of what the file calls it.
        threads: how many threads the trial may use.

    Raises:
        ModelNotFound: there is no such model.
        ModelExists: the name is taken.
        UnsafeModel: something is of a kind that is never loaded.
        InvalidManifest: the name, the word or a configuration is wrong.
        InvalidNetwork: it does not fit the model; the sentence names the first key that does not.
        TooLarge: a file is over a limit.
    """
    manifest = store.get(base)
    chosen = name if name is not None else model_id_from(path)
    if not is_model_id(chosen):
        raise InvalidManifest(
            f"'{chosen[:64]}' is no adapter name: lower-case letters, digits, '.', '_' and '-', at "
            "most 64, a letter or digit at both ends"
        )
    store.check_free(chosen)
    if path.is_symlink():
        raise UnsafeModel(f"'{path.name}' is a symbolic link; give the folder or file itself")
    if not path.exists():
        raise InvalidManifest(f"'{path.name}' does not exist")
    target = _Target(store, manifest, threads)
    if path.is_dir():
        found = _controlnet(path, chosen, target)
    else:
        found = _single_file(path, chosen, target, token)
    kept = _signed(chosen, manifest, found)
    store.adapters.put(kept, found.contents)
    return AddedAdapter(kept, tuple(found.notes))


class _Target:
    """The model that an adapter is for; its parts are opened when they are first needed."""

    def __init__(self, store: Store, manifest: Manifest, threads: int) -> None:
        self.store, self.manifest, self.threads = store, manifest, threads
        self.limits: StoreLimits = store.limits
        self.read = StoredFiles(store, manifest.id)
        files = manifest.networks[DENOISER].diffusers if DENOISER in manifest.networks else None
        if manifest.pipeline is None or files is None:
            raise InvalidNetwork(
                f"'{manifest.id}' was not imported from a diffusers folder; only such models take "
                "adapters"
            )
        self.pipeline: Pipeline = manifest.pipeline
        self.component: str = files.component
        self._network: AdaptableNetwork | None = None
        self._layers: dict[str, Layers | None] = {}

    @property
    def denoiser(self) -> AdaptableNetwork:
        """As a server opens it, on the CPU."""
        if self._network is None:
            hardware = Hardware(
                _CPU, self.threads, Measurements(None, _CPU, self.threads), self.limits
            )
            opened_ = open_export(self.manifest, DENOISER, self.read, hardware, "diffusers")
            if not isinstance(opened_, AdaptableNetwork):
                raise InvalidNetwork(f"the denoiser of '{self.manifest.id}' takes no adapters")
            self._network = opened_
        return self._network

    def layers(self, component: str) -> Layers | None:
        """The layers of a component that can be adapted; see `Base.layers`."""
        if component not in self._layers:
            self._layers[component] = self._find_layers(component)
        return self._layers[component]

    def _find_layers(self, component: str) -> Layers | None:
        if component == DENOISER:
            return adaptable_layers(self.denoiser.component)
        part = self.pipeline.components.get(component)
        if part is None or part.kind not in NETWORKS:
            return None
        return adaptable_layers(load_network(component, part, self.read, self.limits))

    def try_beside_plain_rows(self, addition: Addition, what: str) -> None:
        """Evaluate rows of noise, one of them with the addition.

        Raises:
            InvalidNetwork: it cannot be evaluated, or its row is not finite, or others changed.
        """
        rows = self.denoiser.random_rows(TRIED_ROWS)
        output = next(iter(self.denoiser.outputs))
        plain = self.denoiser(**rows)[output]
        try:
            changed = self.denoiser.adapted(rows, [Addition(), addition, Addition()])[output]
        except EngineFailure as error:
            raise InvalidNetwork(f"{what} does not fit the denoiser: {error.message}") from error
        if not bool(torch.isfinite(changed[1]).all()):
            raise InvalidNetwork(f"{what} makes values that are not finite")
        if not torch.equal(plain[[0, 2]], changed[[0, 2]]):
            raise InvalidNetwork(f"{what} changes the rows beside its own; it cannot be served")


def _single_file(path: Path, name: str, target: _Target, token: str | None) -> _Found:
    if path.suffix.lower() != ".safetensors":
        raise UnsafeModel(
            f"'{path.name}' is no .safetensors file; an adapter is one, or a ControlNet's folder: "
            "convert it, nothing else is ever loaded"
        )
    data = read_plain(path.parent, path.name, target.limits.adapter_bytes)
    if embeddings.is_embedding(load_tensors(path.name, data, target.limits)):
        return _embedding(path.name, name, data, target, token)
    if token is not None:
        raise InvalidManifest(f"'{path.name}' is no textual inversion and takes no --token")
    return _lora(path.name, name, data, target)


def _lora(file: str, name: str, data: bytes, target: _Target) -> _Found:
    base = Base(
        name=target.manifest.id,
        denoiser=target.component,
        config=target.denoiser.component.config,
        layers=target.layers,
    )
    pairs = read_lora(file, data, base, target.limits)
    kept = packed(pairs)
    weights = opened(name, digest(kept), kept, target.limits, _CPU)
    if DENOISER in weights.parts:
        addition = Addition(loras=(ScaledLora(weights, 1.0),))
        target.try_beside_plain_rows(addition, f"LoRA '{file}'")
    parts = sorted({component for component, _ in pairs})
    ranks = sorted({len(pair.down) for pair in pairs.values() if pair.down is not None})
    layers = {target.component if p == DENOISER else p: len(weights.parts[p]) for p in parts}
    return _Found(
        {
            "kind": "lora",
            "weights": {"file": "lora.safetensors", "sha256": digest(kept)},
            "source_sha256": digest(data),
            "details": {"layers": layers, "ranks": ranks},
        },
        {"lora.safetensors": kept},
        [target.component, *(part for part in parts if part != DENOISER)],
        [
            f"a LoRA of {count} layers of the {part}, rank {'/'.join(map(str, ranks))}"
            for part, count in layers.items()
        ],
    )


def _embedding(file: str, name: str, data: bytes, target: _Target, token: str | None) -> _Found:
    pipeline, shelf = target.pipeline, target.store.adapters
    vectors, own = embeddings.read_embedding(file, data, pipeline, target.read, target.limits)
    word, count = token or own or f"<{name}>", len(next(iter(vectors.values())))
    others = shelf.manifests(target.manifest.id)
    embeddings.refuse_known(word, count, pipeline, target.read, others)
    kept = embeddings.packed(vectors)
    return _Found(
        {
            "kind": "textual_inversion",
            "weights": {"file": "embedding.safetensors", "sha256": digest(kept)},
            "source_sha256": digest(data),
            "token": word,
            "details": {"vectors": count},
        },
        {"embedding.safetensors": kept},
        sorted(vectors),
        [f"a textual inversion of {count} vectors; write {word} in a prompt"],
    )


def _controlnet(path: Path, name: str, target: _Target) -> _Found:
    scan_folder(path, target.limits)
    config = read_config(_CONFIG, read_plain(path, _CONFIG, MAX_CONFIG_BYTES))
    if config.get("_class_name") != CONTROLNET:
        raise InvalidManifest(
            f"'{path.name}' is a folder of class '{str(config.get('_class_name'))[:64]}'; as an "
            f"adapter a folder of class {CONTROLNET} is served"
        )
    weights = sorted(e.name for e in path.iterdir() if _CONTROL_WEIGHTS.fullmatch(e.name))
    if len(weights) != 1:
        raise InvalidManifest(
            f"'{path.name}' has {len(weights)} files of weights; exactly one is read, called "
            f"{_WEIGHTS}"
        )
    contents = {_CONFIG: read_plain(path, _CONFIG, MAX_CONFIG_BYTES)}
    contents[_WEIGHTS] = read_plain(path, weights[0], target.limits.adapter_bytes)
    refuse_unsafe(weights[0], contents[_WEIGHTS])
    files = {key: {"file": key, "sha256": digest(data)} for key, data in contents.items()}
    found = _Found(
        {"kind": "controlnet", "component": {"kind": CONTROLNET, "files": files}},
        contents,
        [target.component],
    )
    draft = _signed(name, target.manifest, found)
    network, size = control_network(
        draft, target.manifest, contents.__getitem__, target.limits, _CPU, target.threads
    )
    row = network(**network.random_rows(1))["residuals"][0]
    target.try_beside_plain_rows(Addition(residuals=row), f"ControlNet '{path.name}'")
    found.notes.append(f"a ControlNet of {size // 4:,} numbers")
    return found


def _signed(name: str, base: Manifest, found: _Found) -> AdapterManifest:
    raw = {
        "id": name,
        "base": base.id,
        "base_components": found.components,
        "base_digest": digest_of(base, found.components),
        "created": datetime.now(UTC),
        **found.fields,
    }
    try:
        return AdapterManifest.model_validate(raw)
    except ValidationError as error:
        raise InvalidManifest(explain(error).message) from error
