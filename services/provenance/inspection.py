"""What an image says of itself, and whether that can be believed."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import c2pa

from services.core.errors import InvalidImage
from services.provenance.labels import opened, parameters_in, source_type_in
from services.provenance.signing import GENERATION, LIBRARY_SETTINGS, media_type_of

Verdict = Literal["absent", "trusted", "untrusted", "invalid"]

_UNTRUSTED: Final = "signingCredential.untrusted"
_UNREADABLE = (OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error)
"""What Pillow raises for bytes that it does not understand."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """What an image was made from, as its manifest says it.

    Attributes:
        title: a name for people.
        relationship: ``parentOf``, ``componentOf`` or ``inputTo``.
        manifest: whether the ingredient brought a manifest of its own.
        problems: what was wrong with that one, as codes of the C2PA specification.
    """

    title: str
    relationship: str
    manifest: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A C2PA manifest and what came of checking it.

    Attributes:
        verdict: ``trusted`` and ``untrusted`` both mean that the signature is good and the bytes
            are those that were signed; they differ in whether the signer is known.
        problems: what failed, as codes of the C2PA specification.
        signer: the name in the signing certificate.
        claim_generator: the software that signed.
        actions: what was done, in order.
        source_types: the digital source types of the actions.
        generation: the model, its digest and the task, where the manifest is one of ours.
        ingredients: what the image was made from.
    """

    verdict: Verdict
    problems: tuple[str, ...] = ()
    signer: str | None = None
    claim_generator: str | None = None
    actions: tuple[str, ...] = ()
    source_types: tuple[str, ...] = ()
    generation: Mapping[str, Any] | None = None
    ingredients: tuple[Ingredient, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that an image file says of where it comes from.

    Attributes:
        media_type: ``image/png``, ``image/jpeg`` or ``image/webp``.
        width: in pixels; ``None`` where the file is broken.
        height: as the width.
        source_type: the IPTC digital source type in its XMP.
        parameters: how to make it again; anybody can have written them.
        manifest: the C2PA manifest.
    """

    media_type: str
    width: int | None
    height: int | None
    source_type: str | None
    parameters: Mapping[str, Any] | None
    manifest: Manifest


def inspect(data: bytes, anchors: Sequence[bytes] = ()) -> Inspection:
    """Read an image file and check its manifest. Nothing is fetched.

    Args:
        data: a PNG, JPEG or WebP.
        anchors: PEM certificates of the authorities that are trusted.

    Raises:
        InvalidImage: the file cannot be read.
    """
    media_type = media_type_of(data)
    if media_type is None:
        raise InvalidImage("no PNG, JPEG or WebP")
    manifest = _manifest(data, media_type, anchors)
    try:
        image = opened(data)
        source_type, parameters = source_type_in(image), parameters_in(image)
    except _UNREADABLE as error:
        if manifest.verdict != "absent":  # broken, and the manifest can tell
            return Inspection(media_type, None, None, None, None, manifest)
        raise InvalidImage(f"the image cannot be read: {error}") from error
    return Inspection(media_type, image.width, image.height, source_type, parameters, manifest)


def _manifest(data: bytes, media_type: str, anchors: Sequence[bytes]) -> Manifest:
    settings = {
        **LIBRARY_SETTINGS,
        "verify": {**LIBRARY_SETTINGS["verify"], "verify_trust": True},
    }
    if anchors:
        settings["trust"] = {"user_anchors": b"\n".join(anchors).decode("ascii", "replace")}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader,
        ):
            found = json.loads(reader.json())
    except c2pa.C2paError as error:
        if isinstance(error, c2pa.C2paError.ManifestNotFound):
            return Manifest("absent")
        return Manifest("invalid", (f"unreadable: {type(error).__name__.removeprefix('_C2pa')}",))
    return _report(found)


def _report(store: Mapping[str, Any]) -> Manifest:
    active = store["manifests"][store["active_manifest"]]
    problems = _failures(store.get("validation_results", {}))
    verdict: Verdict = "invalid"
    if store.get("validation_state") == "Trusted":
        verdict = "trusted"
    elif store.get("validation_state") == "Valid":
        verdict = "untrusted"
    assertions = active.get("assertions", [])
    actions = [
        action
        for one in assertions
        if one["label"].startswith("c2pa.actions")
        for action in one["data"].get("actions", [])
    ]
    generations = [one["data"] for one in assertions if one["label"] == GENERATION]
    generator: Mapping[str, Any] = next(iter(active.get("claim_generator_info", [])), {})
    names = [str(generator[part]) for part in ("name", "version") if part in generator]
    return Manifest(
        verdict=verdict,
        problems=problems,
        signer=active.get("signature_info", {}).get("common_name"),
        claim_generator=" ".join(names) or None,
        actions=tuple(action["action"] for action in actions),
        source_types=tuple(a["digitalSourceType"] for a in actions if "digitalSourceType" in a),
        generation=generations[0] if generations else None,
        ingredients=tuple(_ingredient(one) for one in active.get("ingredients", [])),
    )


def _ingredient(told: Mapping[str, Any]) -> Ingredient:
    return Ingredient(
        title=str(told.get("title", "")),
        relationship=str(told.get("relationship", "")),
        manifest="active_manifest" in told,
        problems=tuple(
            code for code in _failures(told.get("validation_results", {})) if code != _UNTRUSTED
        ),
    )


def _failures(results: Mapping[str, Any]) -> tuple[str, ...]:
    failed = results.get("activeManifest", {}).get("failure", [])
    return tuple(str(one["code"]) for one in failed)
