"""Adding a stranger's model: read, inspect, try, open, probe; only then is it stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from model_store.draft import (
    Draft,
    model_id_from,
    read_folder,
    read_onnx_file,
    refuse_odd_path,
)
from model_store.image_guess import guess_family, guess_frame, image_network, measure_range
from model_store.importers.pipeline_folder import is_pipeline
from model_store.importers.pipelines import import_pipeline
from model_store.inspect_onnx import check_onnx
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, NetworkFiles, OnnxFile, is_model_id
from model_store.networks.binding import Bound, Declared, bind_inputs, bind_outputs
from model_store.networks.component_opening import prompt_encoder_of
from model_store.networks.export_choice import open_export
from model_store.networks.export_loading import declare
from model_store.networks.graph import GraphTensor
from model_store.networks.hardware import Export, Hardware
from model_store.networks.image_layout import Frame
from model_store.networks.measurements import Measurements
from model_store.networks.onnx_description import declared_rows, graph_inputs
from model_store.networks.signatures import SIGNATURES
from model_store.plain_files import digest
from model_store.reading import DraftedFiles
from model_store.store import Store
from model_store.trial import check_size, try_graph
from services.core.errors import InvalidManifest, InvalidNetwork

PARITY = 1e-2
TRIED_ROWS = 3
_SINGLE_NETWORKS = {"gan": "generator", "vae": "decoder", "flow": "inverse"}
_UNKNOWN = Frame(1, 1, 1)


@dataclass(frozen=True, slots=True)
class Addition:
    """A model that was stored, and what was assumed of it."""

    manifest: Manifest
    notes: Sequence[str]


def add_model(
    store: Store,
    path: Path,
    *,
    name: str | None = None,
    family: str | None = None,
    threads: int = 2,
) -> Addition:
    """Check a model and put it into the user's store.

    Args:
        store: where to put it.
        path: a folder with a manifest and its files, a diffusers folder (`model_index.json`), or a
            single ONNX file.
        name: what to call it, instead of what the manifest or the file's name says.
        family: its family, instead of what the manifest or the file's name says.
        threads: how many threads the trial may use.

    Raises:
        ModelExists: the name is taken.
        UnsafeModel: something is of a kind that is never loaded.
        InvalidManifest: the manifest is missing or wrong.
        IntegrityFailure: a file is missing, or is not the one whose digest the manifest gives.
        InvalidNetwork: a network cannot be opened, or is not what the manifest says.
        TooLarge: a file is over a limit.
    """
    draft = _drafted(store, path, name=name, family=family, threads=threads)
    store.check_free(draft.manifest.id)
    _tried(draft, store.limits, threads)
    store.put(draft.manifest, {**draft.contents, **draft.weights})
    return Addition(draft.manifest, tuple(draft.notes))


def add_version(
    store: Store,
    path: Path,
    *,
    name: str | None = None,
    family: str | None = None,
    threads: int = 2,
) -> Addition:
    """Check a model and store it as another version of one of the user's models.

    It is not served before `Store.serve` says so. Arguments are as for `add_model`.

    Raises:
        ModelNotFound: there is no model of that name.
        ModelError: that model is built in, or of another family; else as `add_model`.
    """
    draft = _drafted(store, path, name=name, family=family, threads=threads)
    store.check_version(draft.manifest.id, draft.manifest.family)
    _tried(draft, store.limits, threads)
    store.put_version(draft.manifest, {**draft.contents, **draft.weights})
    return Addition(draft.manifest, tuple(draft.notes))


def _drafted(
    store: Store, path: Path, *, name: str | None, family: str | None, threads: int
) -> Draft:
    if name is not None and not is_model_id(name):
        raise InvalidManifest(
            f"'{name[:64]}' is no model name: lower-case letters, digits, '.', '_' and '-', at "
            "most 64, a letter or digit at both ends"
        )
    refuse_odd_path(path)
    if is_pipeline(path):
        if family not in {None, "diffusion"}:
            raise InvalidManifest(f"'{path.name}' is a pipeline of family 'diffusion'")
        return import_pipeline(path, store.limits, name=name)
    if path.is_dir():
        return read_folder(path, store.limits, name=name, family=family)
    return _draft_of_one_file(path, store.limits, name=name, family=family, threads=threads)


def _tried(draft: Draft, limits: StoreLimits, threads: int) -> None:
    """Run and open every network, and name every file's digest."""
    for network in draft.manifest.networks:
        _try(draft, network, limits, threads)
    _sign(draft)
    _open(draft, limits, threads)
    _open_prompts(draft, limits)


def _draft_of_one_file(
    path: Path, limits: StoreLimits, *, name: str | None, family: str | None, threads: int
) -> Draft:
    data = read_onnx_file(path, limits)
    notes: list[str] = []
    if family is None:
        family = guess_family(path.stem)
        notes += [f"guessed the family from the file's name: {family}"] if family else []
    if family not in _SINGLE_NETWORKS:
        raise InvalidManifest(
            f"'{path.name}' alone needs --family {', '.join(_SINGLE_NETWORKS)}; any other model "
            "needs a folder with a manifest"
        )
    network = _SINGLE_NETWORKS[family]
    check_onnx(path.name, data, limits)
    declared = Declared(network, _UNKNOWN, SIGNATURES[family, network])
    outputs = _trial(path.name, data, declared, limits, threads, "nothing, it is yet to be found")
    frame = guess_frame(outputs)
    notes.append(
        f"read from the output: {frame.height} x {frame.width} pixels, {frame.channels} channels"
    )
    file = f"{network}.onnx"
    manifest = Manifest(
        id=name or model_id_from(path),
        family=family,
        resolution=(frame.height, frame.width),
        channels=1 if frame.channels == 1 else 3,
        networks={network: NetworkFiles(onnx=OnnxFile(file=file))},
    )
    return Draft(manifest, {file: data}, says_range=False, notes=notes)


def _try(draft: Draft, name: str, limits: StoreLimits, threads: int) -> None:
    """Run an ONNX export apart from this process, and hold its outputs against the manifest."""
    file = draft.manifest.networks[name].onnx
    if file is None:
        return
    declared = declare(draft.manifest, name, file)
    frame = declared.frame
    expected = f"{frame.height} x {frame.width} pixels and {frame.channels} channels"
    outputs = _trial(file.file, draft.contents[file.file], declared, limits, threads, expected)
    bind_outputs(declared, outputs)


def _trial(
    file: str,
    data: bytes,
    declared: Declared,
    limits: StoreLimits,
    threads: int,
    expected: str,
) -> Sequence[GraphTensor]:
    model = check_onnx(file, data, limits)
    for output, row in declared_rows(model).items():
        check_size(declared.name, output, row, limits, expected)
    tensors = graph_inputs(model, declared.name)
    bound = bind_inputs(declared, tensors)
    firsts = [t.shape[0] if t.shape else 1 for t in tensors]
    static = next((size for size in firsts if size is not None), None)
    feeds = _feeds(bound, static or 1)
    return try_graph(declared.name, data, feeds, limits, threads=threads, expected=expected)


def _feeds(bound: Sequence[Bound], rows: int) -> dict[str, torch.Tensor]:
    return {
        b.graph: b.convert(torch.zeros((rows, *(d or 1 for d in b.spec.shape)), dtype=b.spec.dtype))
        for b in bound
    }


def _sign(draft: Draft) -> None:
    """Name every file's digest, and the time."""
    raw = draft.manifest.model_dump(mode="json")
    for network in raw["networks"].values():
        for export in (network["onnx"], network["safetensors"]):
            if export is not None:
                export["sha256"] = digest(draft.contents[export["file"]])
    components = raw["pipeline"]["components"].values() if raw["pipeline"] else ()
    parts = [file for component in components for file in component["files"].values()]
    for file in [*parts, *raw["files"].values()]:
        file["sha256"] = draft.digest(file["file"])
    created = raw["created"] or datetime.now(UTC).isoformat(timespec="seconds")
    draft.change(
        networks=raw["networks"], pipeline=raw["pipeline"], files=raw["files"], created=created
    )


def _open(draft: Draft, limits: StoreLimits, threads: int) -> None:
    """Open each export as a server will, run it on several rows, and find the pixel range."""
    cpu = torch.device("cpu")
    hardware = Hardware(cpu, threads, Measurements(None, cpu, threads), limits)
    maker = image_network(draft.manifest.family, list(draft.manifest.networks))
    for name, files in draft.manifest.networks.items():
        exports: list[Export] = []
        exports += ["onnx"] if files.onnx else []
        exports += ["safetensors"] if files.safetensors else []
        exports += ["diffusers"] if files.diffusers else []
        opened = [
            open_export(draft.manifest, name, _files(draft), hardware, export) for export in exports
        ]
        rows = opened[0].random_rows(TRIED_ROWS)
        results = [network(**rows) for network in opened]
        _refuse_disparity(name, results)
        if name == maker and not draft.says_range:
            low, high = measure_range(opened[0])
            draft.change(pixel_range=[low, high])
            draft.notes.append(f"measured the pixel range on random latents: [{low:g}, {high:g}]")


def _open_prompts(draft: Draft, limits: StoreLimits) -> None:
    """Open what reads prompts, and hold what it makes of none against what the denoiser takes."""
    opening = prompt_encoder_of(draft.manifest, _files(draft), limits, torch.device("cpu"))
    denoiser = draft.manifest.networks.get("denoiser")
    if opening is None or denoiser is None or denoiser.diffusers is None:
        return
    for name, value in opening()("").items():
        wanted = denoiser.diffusers.shapes.get(name)
        if list(value.shape) != wanted:
            raise InvalidNetwork(
                f"a prompt gives '{name}' of {list(value.shape)}, the denoiser takes {wanted}; "
                "the text encoder, the tokenizer and the denoiser are not of one model"
            )


def _files(draft: Draft) -> DraftedFiles:
    signed = {file.file: str(file.sha256) for file in draft.manifest.stored_files()}
    return DraftedFiles(draft.contents, draft.weights, signed)


def _refuse_disparity(name: str, results: Sequence[dict[str, torch.Tensor]]) -> None:
    first = results[0]
    for other in results[1:]:
        for output in first.keys() & other.keys():
            scale = max(1.0, float(first[output].abs().max()))
            difference = float((first[output] - other[output]).abs().max()) / scale
            if not difference <= PARITY:
                raise InvalidNetwork(
                    f"the two exports of network '{name}' disagree: '{output}' differs by "
                    f"{difference:.2g}; export both from the same weights"
                )
