"""A diffusers pipeline's folder, vetted: every file is named by an index, and none can hold code.

Only what ``model_index.json``, the components' own conventions and the weight indexes name may lie
there, besides a readme and a licence. So nothing is stored that nobody looked at, and nothing looks
harmless because nobody stored it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.file_content import refuse_unsafe, scan_folder
from model_store.limits import StoreLimits
from model_store.networks.component_classes import FORMER, NETWORKS, TOKENIZERS, WEIGHTS
from model_store.networks.component_files import MAX_CONFIG_BYTES, read_config, shards
from model_store.plain_files import PlainFile, read_plain, read_start
from services.core.errors import IntegrityFailure, InvalidManifest, TooLarge, UnsafeModel

INDEX = "model_index.json"
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
LEFT_OUT = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Components of a pipeline that play no part here; their files are vetted and not stored."""

WEIGHTS_SUFFIX = ".safetensors"
START_BYTES = 1 << 16
"""Enough of a file to tell a pickle or an archive."""

_TOKENIZER_FILES = frozenset(
    {
        "vocab.json", "merges.txt", "tokenizer.json", "spiece.model", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json",
    }
)  # fmt: skip
_SCHEDULER_FILES = ("scheduler_config.json", "config.json")
_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})
_IGNORED = re.compile(r"README\.md|\.gitattributes|LICEN[CS]E[A-Za-z0-9._-]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FoundComponent:
    """A component as it lies in the folder.

    ``files`` are base names, by the name that the component's class looks for.
    """

    kind: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """What ``model_index.json`` says, with every file that it names found.

    ``settings`` is what it says besides components.
    """

    path: Path
    kind: str
    components: Mapping[str, FoundComponent]
    settings: Mapping[str, Any]

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration; raises what `read_config` does."""
        files = self.components[component].files
        name = next(n for n in ("config.json", *_SCHEDULER_FILES) if n in files)
        data = read_plain(self.path / component, files[name], MAX_CONFIG_BYTES)
        return read_config(f"{component}/{name}", data)

    def contents(
        self, limits: StoreLimits, wanted: Sequence[str]
    ) -> tuple[dict[str, bytes], dict[str, PlainFile]]:
        """The wanted components' files by `stored_name`: bytes, and weights where they lie.

        Raises:
            TooLarge: a file, or all of them, are over a limit.
            UnsafeModel: one is a pickle or an archive.
        """
        left = limits.pipeline_bytes
        found: dict[str, bytes] = {}
        weights: dict[str, PlainFile] = {}
        for component in wanted:
            for file in self.components[component].files.values():
                name, folder = stored_name(component, file), self.path / component
                if file.endswith(WEIGHTS_SUFFIX):
                    refuse_unsafe(f"{component}/{file}", read_start(folder, file, START_BYTES))
                    weights[name] = PlainFile(folder, file, min(left, limits.weight_bytes))
                    left -= weights[name].size()
                else:
                    data = read_plain(folder, file, min(left, limits.file_bytes))
                    refuse_unsafe(f"{component}/{file}", data)
                    found[name] = data
                    left -= len(data)
                if left < 0:
                    raise TooLarge(
                        f"the pipeline's files have more than {limits.pipeline_bytes:,} bytes"
                    )
        return found, weights


def stored_name(component: str, file: str) -> str:
    """What a component's file is called beside a manifest, where there are no folders."""
    return f"{component}.{file}"


def is_pipeline(path: Path) -> bool:
    """Whether a folder says that it is a diffusers pipeline."""
    return path.is_dir() and (path / INDEX).exists()


def read_pipeline_folder(path: Path, limits: StoreLimits) -> PipelineFolder:
    """Vet a folder.

    Raises:
        UnsafeModel: it holds or asks for code, a pickle, an archive or a link, or a file that no
            index names.
        InvalidManifest: an index is missing or wrong, or names a class that is not served.
        IntegrityFailure: a file that is named is missing.
        TooLarge: it holds more entries than a model may have.
    """
    _refuse_pickles(path, limits)
    scan_folder(path, limits)
    index = read_config(INDEX, read_plain(path, INDEX, MAX_CONFIG_BYTES))
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        raise UnsafeModel(f"'{INDEX}' names a pipeline of its own code: {str(kind)[:128]}")
    named = {key: value for key, value in index.items() if isinstance(value, list)}
    classes = {key: found for key in named if (found := _class(key, named[key])) is not None}
    components = {
        key: _found(path, key, kind_of) for key, kind_of in classes.items() if key not in LEFT_OUT
    }
    _refuse_unnamed(path, components, set(classes))
    settings = {
        key: value
        for key, value in index.items()
        if key not in named and not key.startswith("_") and value is not None
    }
    return PipelineFolder(path, kind, components, settings)


def _class(component: str, value: list[Any]) -> str | None:
    """The class of a component; none where the pipeline has none."""
    if value == [None, None]:
        return None
    if len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise InvalidManifest(f"'{INDEX}' must give '{component}' as [library, class]")
    library, kind = value
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", component):
        raise InvalidManifest(f"'{INDEX}' names a component '{component[:64]}'; that is no name")
    if library not in _LIBRARIES:
        raise UnsafeModel(
            f"'{INDEX}' takes '{component}' from '{library[:64]}'; only classes of diffusers and "
            "transformers are opened"
        )
    return str(kind)


def _found(path: Path, component: str, kind: str) -> FoundComponent:
    folder = path / component
    if not folder.is_dir():
        raise IntegrityFailure(f"'{INDEX}' names '{component}', and there is no such folder")
    present = {entry.name for entry in folder.iterdir()}
    if kind in FORMER:
        config = read_config(
            f"{component}/config.json", read_plain(folder, "config.json", MAX_CONFIG_BYTES)
        )
        kind = FORMER[kind].get(str(config.get("norm_type")), kind)
    if kind in NETWORKS:
        files = {"config.json": "config.json", **_weights(folder, component, kind, present)}
    elif kind in TOKENIZERS:
        files = {name: name for name in sorted(present & _TOKENIZER_FILES)}
    elif kind.endswith("Scheduler"):
        files = {name: name for name in _SCHEDULER_FILES if name in present}
    else:
        known = ", ".join([*NETWORKS, *TOKENIZERS])
        raise InvalidManifest(
            f"component '{component}' is of class '{kind[:64]}', which is not served; classes that "
            f"are: {known}, and schedulers"
        )
    missing = sorted(set(files.values()) - present)
    if missing or not files:
        raise IntegrityFailure(f"component '{component}' lacks {missing or 'its files'}")
    return FoundComponent(kind, files)


def _weights(folder: Path, component: str, kind: str, present: set[str]) -> dict[str, str]:
    """Weight files by their standard names; a variant such as fp16 is taken where it is alone."""
    base = re.escape(WEIGHTS[NETWORKS[kind]])
    whole = re.compile(rf"{base}(?:\.\w+)?\.safetensors")
    index = re.compile(rf"{base}\.safetensors\.index(?:\.\w+)?\.json")
    found = sorted(n for n in present if whole.fullmatch(n) or index.fullmatch(n))
    if not found:
        raise InvalidManifest(
            f"component '{component}' has no safetensors weights "
            f"('{WEIGHTS[NETWORKS[kind]]}.safetensors'); no other kind is loaded"
        )
    if len(found) > 1:
        raise InvalidManifest(
            f"component '{component}' has its weights more than once: {', '.join(found)}; keep one"
        )
    if whole.fullmatch(found[0]):
        return {f"{WEIGHTS[NETWORKS[kind]]}.safetensors": found[0]}
    data = read_plain(folder, found[0], MAX_CONFIG_BYTES)
    named = {file: file for file in shards(f"{component}/{found[0]}", data)}
    return {f"{WEIGHTS[NETWORKS[kind]]}.safetensors.index.json": found[0], **named}


def _refuse_pickles(path: Path, limits: StoreLimits) -> None:
    for count, entry in enumerate(path.rglob("*")):
        if count > limits.folder_entries:
            raise TooLarge(f"the folder holds more than {limits.folder_entries} entries")
        if entry.suffix.lower() in PICKLE_SUFFIXES:
            raise UnsafeModel(
                f"'{entry.relative_to(path)}' is a pickle by its name: never loaded; remove it, "
                "and keep the safetensors weights"
            )


def _refuse_unnamed(
    path: Path, components: Mapping[str, FoundComponent], folders: set[str]
) -> None:
    """Refuse every file that nothing names."""
    for entry in sorted(path.rglob("*")):
        shown = entry.relative_to(path)
        top, depth = shown.parts[0], len(shown.parts)
        if depth == 1 and (entry.name == INDEX or _IGNORED.fullmatch(entry.name)):
            continue
        if depth == 1 and entry.is_dir() and top in folders:
            continue
        if depth == 2 and top in LEFT_OUT & folders and entry.suffix in {".json", ".safetensors"}:
            continue
        if depth == 2 and top in components and entry.name in components[top].files.values():
            continue
        raise UnsafeModel(
            f"'{shown}' is named by no index of the pipeline; remove it: what is stored is what "
            "is served"
        )
