"""The manifest: what an exported model is, in one small file.

A manifest names a model's family, the shape and range of its images, and its networks as files with
their SHA-256. It holds no code and no path outside its own folder. What only one family needs
stands under ``options`` and is checked by that family when the model is set up.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from model_store.plain_files import read_plain
from services.core.errors import InvalidManifest
from services.core.validation import explain

SCHEMA_VERSION: Literal[1] = 1
MANIFEST_NAMES = ("manifest.json", "manifest.yaml", "manifest.yml")
MAX_MANIFEST_BYTES = 1 << 20
MAX_SIDE = 4096

MODEL_ID_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
FILE_NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"

ModelId = Annotated[str, StringConstraints(pattern=MODEL_ID_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=FILE_NAME_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ComponentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Dimension = Annotated[int, Field(ge=1, le=1 << 24)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredFile(_Strict):
    """A file beside the manifest: a plain base name and the digest of its content."""

    file: FileName
    sha256: Sha256 | None = Field(
        default=None, description="Filled in by `atelier models add` when absent."
    )


class ExportFile(StoredFile):
    """A network in one format."""

    shapes: dict[str, list[Dimension]] = Field(
        default_factory=dict,
        description="Shape, without the batch, of an input whose shape the file does not tell.",
    )


class OnnxFile(ExportFile):
    """A network as an ONNX graph."""

    inputs: dict[str, str] = Field(
        default_factory=dict,
        description="The family's name of an input to the graph's own, where they differ.",
    )
    outputs: dict[str, str] = Field(
        default_factory=dict,
        description="The family's name of an output to the graph's own, where they differ.",
    )
    image_layout: Literal["nchw", "nhwc"] | None = Field(
        default=None, description="The order of an image's axes, where the shapes leave it open."
    )


class SafetensorsFile(ExportFile):
    """A network as weights for one of the architectures that ship with Atelier."""

    architecture: str
    config: dict[str, JsonValue] = Field(default_factory=dict)


class ComponentNetwork(_Strict):
    """A network that is a component of a diffusers pipeline, or a part of one."""

    component: ComponentName = Field(description="One of the manifest's `components`.")
    shapes: dict[str, list[Dimension]] = Field(
        description="Shape, without the batch, of every input; [] for one number a row."
    )


class NetworkFiles(_Strict):
    """One network: as ONNX, as safetensors, as both (equal by a parity gate), or as a component."""

    onnx: OnnxFile | None = None
    safetensors: SafetensorsFile | None = None
    diffusers: ComponentNetwork | None = None

    @model_validator(mode="after")
    def _has_a_file(self) -> NetworkFiles:
        exported = self.onnx is not None or self.safetensors is not None
        if exported == (self.diffusers is not None):
            raise ValueError(
                "a network needs an `onnx` or a `safetensors` entry, or a `diffusers` entry alone"
            )
        return self


class Component(_Strict):
    """A component of a diffusers pipeline: its class, and the files that the class reads."""

    kind: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{1,63}$")] = Field(
        description="A class of diffusers or transformers that Atelier knows by this name."
    )
    files: Annotated[
        dict[FileName, StoredFile],
        Field(min_length=1, max_length=256, description="By the name that the class looks for."),
    ]


class Pipeline(_Strict):
    """The diffusers pipeline that a model was imported from."""

    kind: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{1,63}$")] = Field(
        description="The pipeline's class; its own `encode_prompt` reads prompts."
    )
    components: Annotated[dict[ComponentName, Component], Field(min_length=1, max_length=16)]
    settings: dict[ComponentName, bool] = Field(
        default_factory=dict, description="Settings of the pipeline that bear on prompts."
    )


class TorchOptions(_Strict):
    """How a model's networks are run where they run on torch; ONNX exports are not concerned."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Of weights and activations; states and times stay in float32 or better.",
    )
    channels_last: bool = Field(
        default=False, description="Keep images with their channels innermost, for convolutions."
    )
    compile: bool = Field(
        default=False, description="Compile each batch bucket with torch.compile at load."
    )
    cuda_graphs: bool = Field(
        default=False, description="Record each batch bucket as a CUDA graph at load."
    )
    batch_buckets: Annotated[
        list[Annotated[int, Field(ge=1, le=64)]],
        Field(
            max_length=8,
            description="Batch sizes that networks are run at, others are filled up. By default "
            "any, or where something is compiled or recorded one of 8 if deterministic, else 1, 2, "
            "4, 8 and 16.",
        ),
    ] = []
    deterministic: bool = Field(
        default=True,
        description="Same request, same image to the bit in any company; false: to about 1/255.",
    )
    decode_tile: Annotated[int, Field(ge=4, le=MAX_SIDE)] = Field(
        default=128,
        description="Latents of a longer side than this are decoded in tiles of it that overlap, "
        "one at a time between other requests' steps.",
    )


class Manifest(_Strict):
    """An exported model.

    ``resolution`` is ``[height, width]``; ``pixel_range`` is the range that the networks use for
    black to white.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    id: ModelId
    family: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{1,31}$")]
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    license: Annotated[str, StringConstraints(max_length=200)] = "unspecified"
    owned_by: Annotated[str, StringConstraints(max_length=100)] = "user"
    created: datetime | None = None
    resolution: tuple[Side, Side]
    channels: Literal[1, 3] = 3
    pixel_range: tuple[FiniteFloat, FiniteFloat] = (-1.0, 1.0)
    networks: Annotated[dict[str, NetworkFiles], Field(min_length=1, max_length=16)]
    pipeline: Pipeline | None = None
    torch: TorchOptions = TorchOptions()
    options: dict[str, JsonValue] = Field(default_factory=dict)
    notes: list[Annotated[str, StringConstraints(max_length=500)]] = Field(
        default_factory=list,
        max_length=64,
        description="What an import assumed, and what it does not follow.",
    )
    files: dict[str, StoredFile] = Field(
        default_factory=dict, description="Other files of the model, such as `card` and `sheet`."
    )
    metrics: dict[str, JsonValue] = Field(
        default_factory=dict, description="Numbers measured on held-out data."
    )

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Manifest:
        low, high = self.pixel_range
        if not low < high:
            raise ValueError(f"pixel_range must be [low, high] with low < high, got {[low, high]}")
        return self

    @model_validator(mode="after")
    def _components_are_there(self) -> Manifest:
        there = self.pipeline.components if self.pipeline else {}
        for name, network in self.networks.items():
            if network.diffusers is not None and network.diffusers.component not in there:
                raise ValueError(
                    f"network '{name}' is component '{network.diffusers.component}', which "
                    "`pipeline` does not have"
                )
        return self

    def stored_files(self) -> list[StoredFile]:
        """Every file that the model consists of, networks first."""
        exports = [e for n in self.networks.values() for e in (n.onnx, n.safetensors) if e]
        components = self.pipeline.components.values() if self.pipeline else ()
        parts = [file for component in components for file in component.files.values()]
        return [*exports, *parts, *self.files.values()]


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values, without the aliases by which a few lines stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a manifest")
        return super().compose_node(parent, index)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a field is given twice")
    return table


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a manifest may hold")


def _plain_values(text: str) -> Any:
    if text.lstrip().startswith("{"):
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader


def parse_manifest(text: str, *, source: str) -> Manifest:
    """Read a manifest from JSON or YAML text.

    Args:
        text: the manifest; YAML is read with the safe loader, so it can hold plain values only.
        source: what to call it in an error.

    Raises:
        InvalidManifest: it is no mapping, or a field is missing, unknown or out of range.
    """
    try:
        raw = _plain_values(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidManifest(f"{source} is neither JSON nor YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidManifest(f"{source} must be a mapping of field names to values")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise InvalidManifest(f"{source}: {explain(error).message}") from error


def find_manifest(folder: Path) -> Path:
    """The manifest file of a model's folder.

    Raises:
        InvalidManifest: there is none.
    """
    for name in MANIFEST_NAMES:
        path = folder / name
        if path.is_symlink() or path.exists():
            return path
    raise InvalidManifest(f"{folder.name} holds no {' or '.join(MANIFEST_NAMES)}")


def read_manifest(path: Path) -> Manifest:
    """Read the manifest at ``path``; see `parse_manifest`.

    Raises:
        UnsafeModel: it is a link or no regular file.
        TooLarge: it is larger than a manifest may be.
        IntegrityFailure: it is absent.
    """
    data = read_plain(path.parent, path.name, MAX_MANIFEST_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidManifest(f"{path.name} is not UTF-8 text") from error
    return parse_manifest(text, source=path.name)


def json_schema() -> dict[str, Any]:
    """The manifest's JSON schema, as published in ``model_store/manifest.schema.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Atelier model manifest",
        **Manifest.model_json_schema(),
    }


def is_model_id(text: str) -> bool:
    """Whether ``text`` follows the grammar of model names; nothing else ever reaches a store."""
    return re.fullmatch(MODEL_ID_PATTERN.strip("^$"), text) is not None


def is_file_name(text: str) -> bool:
    """Whether ``text`` is a plain base name that a model's file may have."""
    return re.fullmatch(FILE_NAME_PATTERN.strip("^$"), text) is not None
