"""From a diffusers folder to a manifest with the bytes of its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model_store.draft import Draft
from model_store.importers.described import Described
from model_store.importers.pipeline_folder import (
    INDEX,
    PipelineFolder,
    read_pipeline_folder,
    stored_name,
)
from model_store.importers.pipeline_kinds import PIPELINES
from model_store.limits import StoreLimits
from model_store.manifest import Manifest, is_model_id
from model_store.plain_files import read_plain
from services.core.errors import InvalidManifest
from services.core.validation import explain


def import_pipeline(path: Path, limits: StoreLimits, *, name: str | None) -> Draft:
    """Read a diffusers folder into a manifest and the bytes of its files, but for the weights.

    Args:
        path: the folder.
        limits: on files.
        name: the model's name; by default the folder's.

    Raises:
        UnsafeModel: the folder holds or asks for something that is never loaded.
        InvalidManifest: the pipeline, a component or a setting is not served.
        IntegrityFailure: a file that an index names is missing.
        TooLarge: a file is over a limit.
    """
    folder = read_pipeline_folder(path, limits)
    if folder.kind not in PIPELINES:
        raise InvalidManifest(
            f"a '{folder.kind[:64]}' is not served yet; served are {', '.join(PIPELINES)}"
        )
    found = PIPELINES[folder.kind](folder)
    contents, weights = folder.contents(limits, found.components)
    contents[INDEX] = read_plain(path, INDEX, limits.file_bytes)
    manifest = _manifest(folder, found, name or _model_id(path))
    draft = Draft(manifest, contents, says_range=True, weights=weights)
    draft.notes += [f"read as a {folder.kind}", *found.notes]
    return draft


def _manifest(folder: PipelineFolder, found: Described, name: str) -> Manifest:
    components = {
        key: {
            "kind": folder.components[key].kind,
            "files": {
                looked_for: {"file": stored_name(key, file)}
                for looked_for, file in folder.components[key].files.items()
            },
        }
        for key in found.components
        if key != "scheduler"
    }
    scheduler = folder.components["scheduler"].files
    raw = {
        "id": name,
        "family": "diffusion",
        "description": f"{folder.kind} imported from a diffusers folder.",
        "resolution": found.resolution,
        "channels": found.channels,
        "networks": _networks(found),
        "pipeline": {
            "kind": folder.kind,
            "components": components,
            "settings": found.settings,
        },
        "options": found.options,
        "notes": found.notes,
        "files": {
            "model_index": {"file": INDEX},
            "scheduler": {"file": stored_name("scheduler", next(iter(scheduler.values())))},
        },
    }
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        reason = explain(error).message
        raise InvalidManifest(
            f"the folder's configurations do not make a model: {reason}"
        ) from error


def _networks(found: Described) -> dict[str, Any]:
    networks: dict[str, Any] = {
        "denoiser": {"diffusers": {"component": found.denoiser, "shapes": found.shapes}}
    }
    if "vae" in found.components:
        latent, image = found.shapes["x"], [found.channels, *found.resolution]
        networks["decoder"] = {"diffusers": {"component": "vae", "shapes": {"z": latent}}}
        networks["encoder"] = {"diffusers": {"component": "vae", "shapes": {"image": image}}}
    return networks


def _model_id(path: Path) -> str:
    """A model's name from a folder's, where the last dot is no suffix."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.resolve().name.lower())[:64].strip("-._")
    if not is_model_id(name):
        raise InvalidManifest(f"'{path.name}' gives no usable name; choose one with --name")
    return name
