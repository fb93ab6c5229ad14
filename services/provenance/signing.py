"""C2PA manifests (C2PA specification 2.x), by the Content Authenticity Initiative's own library."""

from __future__ import annotations

import datetime
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import c2pa
import numpy as np

from services.core.errors import InvalidParameter, ProvenanceFailure
from services.core.images import MEDIA_TYPES, encode
from services.core.job import Encoding, ImageFormat
from services.provenance.credentials import Credentials
from services.provenance.record import COMPOSED, GENERATED, SOFTWARE, Record, version

GENERATION: Final = "org.atelier.generation"
"""Our assertion: the model, its digest and the task."""

LIBRARY_SETTINGS: Final[Mapping[str, Any]] = {
    "core": {"allowed_network_hosts": [], "decode_identity_assertions": False},
    "verify": {
        "verify_after_reading": True,
        "verify_after_sign": False,
        "verify_trust": False,
        "verify_timestamp_trust": False,
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
    },
    "builder": {
        "thumbnail": {"enabled": False},
        "auto_timestamp_assertion": {"enabled": False},
        "actions": {
            "auto_created_action": {"enabled": False},
            "auto_opened_action": {"enabled": False},
            "auto_placed_action": {"enabled": False},
        },
    },
}
"""Everything is ours to say and nothing is fetched, whatever an uploaded image asks for."""

_MAGIC: Final = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_LOG = logging.getLogger(__name__)


def media_type_of(data: bytes) -> str | None:
    """What an image's first bytes say that it is, if it is a PNG, JPEG or WebP."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


class ManifestSigner:
    """Signs images; safe to use from several threads."""

    def __init__(
        self, credentials: Credentials, *, max_manifest_bytes: int, prompts: bool = False
    ) -> None:
        """Open the credentials and sign one image with them, to see that they are good.

        Args:
            credentials: the chain and the key.
            max_manifest_bytes: beyond this, uploaded images' manifests are not carried on.
            prompts: whether prompts stand in manifests.

        Raises:
            InvalidParameter: nothing can be signed with them.
        """
        self._most, self._prompts = max_manifest_bytes, prompts
        info = c2pa.C2paSignerInfo(
            credentials.algorithm.encode(), credentials.chain, credentials.key, None
        )
        try:
            self._context = c2pa.Context.from_dict(dict(LIBRARY_SETTINGS))
            self._signer = c2pa.Signer.from_info(info)
            smallest = encode(np.zeros((1, 1, 1), np.uint8), Encoding())
            self._sign(smallest, "png", {"claim_generator_info": _generator()}, ())
        except c2pa.C2paError:
            # The library's own words may hold what it was given.
            raise InvalidParameter(
                f"the certificate and key cannot sign by {credentials.algorithm}: the key must be "
                "of that kind, and the certificate, within its validity and issued by another, "
                "for digital signatures with an extended key usage that C2PA allows",
                param="algorithm",
            ) from None

    def signed(
        self, data: bytes, image_format: ImageFormat, record: Record, *, watermarked: bool = False
    ) -> bytes:
        """An image with its manifest.

        Args:
            data: an encoded image.
            image_format: of the image.
            record: what is known of it.
            watermarked: whether the pixels bear a watermark.

        Raises:
            ProvenanceFailure: it could not be signed.
        """
        ingredients = _ingredients(record)
        definition = self._definition(record, ingredients, watermarked=watermarked)
        try:
            return self._with_sources(data, image_format, definition, ingredients)
        except c2pa.C2paError as error:
            kind = type(error).__name__.removeprefix("_C2pa")
            raise ProvenanceFailure(f"no manifest could be signed: {kind}") from None

    def _with_sources(
        self,
        data: bytes,
        image_format: ImageFormat,
        definition: dict[str, Any],
        ingredients: Sequence[_Ingredient],
    ) -> bytes:
        """Sign with what the uploaded images say of themselves, or without where that is no use."""
        try:
            signed, manifest_bytes = self._sign(data, image_format, definition, ingredients)
            if manifest_bytes <= self._most or not ingredients:
                return signed
            _LOG.info("manifests of uploaded images left out: %d bytes", manifest_bytes)
        except c2pa.C2paError as error:
            if not ingredients:
                raise
            _LOG.info("an uploaded image's manifest is unreadable: %s", type(error).__name__)
        plain = {**definition, "ingredients": [one.described for one in ingredients]}
        return self._sign(data, image_format, plain, ())[0]

    def _sign(
        self,
        data: bytes,
        image_format: ImageFormat,
        definition: Mapping[str, Any],
        ingredients: Sequence[_Ingredient],
    ) -> tuple[bytes, int]:
        target = io.BytesIO()
        with c2pa.Builder(dict(definition), self._context) as builder:
            for one in ingredients:
                builder.add_ingredient(one.described, one.media_type, io.BytesIO(one.data))
            manifest = builder.sign(
                self._signer, MEDIA_TYPES[image_format], io.BytesIO(data), target
            )
        return target.getvalue(), len(manifest)

    def _definition(
        self, record: Record, ingredients: Sequence[_Ingredient], *, watermarked: bool
    ) -> dict[str, Any]:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        agent = {"name": SOFTWARE, "version": version()}
        actions = [
            {**action, "when": when, "softwareAgent": agent}
            for action in _actions(record, ingredients, watermarked=watermarked)
        ]
        about = record.for_the_manifest(prompts=self._prompts)
        return {
            "claim_generator_info": _generator(),
            "title": record.title,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": actions}},
                {"label": GENERATION, "data": about},
            ],
        }


class _Ingredient:
    """An uploaded image, as the manifest speaks of it."""

    def __init__(self, label: str, data: bytes, title: str, relationship: str) -> None:
        self.label, self.data, self.relationship = label, data, relationship
        self.media_type = media_type_of(data) or MEDIA_TYPES["png"]
        self.described = {
            "title": title,
            "format": self.media_type,
            "relationship": relationship,
            "label": label,
        }


def _ingredients(record: Record) -> list[_Ingredient]:
    found = []
    for place, data in enumerate(record.sources):
        relationship = "parentOf" if place == 0 else "componentOf"
        found.append(_Ingredient(f"image-{place}", data, f"image {place}", relationship))
    for place, data in enumerate(record.guides):
        found.append(_Ingredient(f"guide-{place}", data, f"guide {place}", "inputTo"))
    return found


def _actions(
    record: Record, ingredients: Sequence[_Ingredient], *, watermarked: bool
) -> list[dict[str, Any]]:
    """What was done, in the specification's words; the first says what the image began as."""

    def uses(*relationships: str) -> dict[str, Any]:
        labels = [one.label for one in ingredients if one.relationship in relationships]
        return {"parameters": {"ingredientIds": labels}} if labels else {}

    if record.sources:
        actions = [{"action": "c2pa.opened", **uses("parentOf")}]
        if len(record.sources) > 1:
            actions.append({"action": "c2pa.placed", **uses("componentOf")})
        edited = {"action": "c2pa.edited", "digitalSourceType": COMPOSED}
        actions.append({**edited, **uses("inputTo")})
    else:
        created = {"action": "c2pa.created", "digitalSourceType": GENERATED}
        actions = [{**created, **uses("inputTo")}]
    if watermarked:
        actions.append({"action": "c2pa.watermarked.unbound"})
    return actions


def _generator() -> list[dict[str, str]]:
    return [{"name": SOFTWARE, "version": version()}]
