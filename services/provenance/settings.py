"""What an operator may set about provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Algorithm = Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"]


class ProvenanceSettings(BaseModel):
    """What images say of where they come from.

    Attributes:
        enabled: whether images carry a signed C2PA manifest, the IPTC digital source type, and
            their parameters. Off, they leave as they were encoded.
        certificate_file: PEM: the signing certificate, then those of the authorities above it.
            Without one, a development certificate is made, which verifiers do not trust.
        key_file: PEM: the private key of the first certificate, not readable by everybody.
        algorithm: how the key signs.
        on_failure: what to do with an image that cannot be signed: refuse to send it, or send it
            without a manifest and log that.
        metadata: whether requests that do not say get their parameters in the file.
        prompt_in_manifest: whether prompts stand in the signed manifest too.
        max_manifest_bytes: a manifest that grows beyond this, by what the uploaded images brought
            along, is written without their manifests.
        threads: images signed at the same time by each gateway replica.
        watermark: the name of a watermark (`services.provenance.watermark`) that goes into the
            pixels; ``None`` leaves them as the model made them.
        watermark_payload: what the watermark says; who knows it can look for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    certificate_file: Path | None = None
    key_file: Path | None = None
    algorithm: Algorithm = "es256"
    on_failure: Literal["refuse", "send_unsigned"] = "refuse"
    metadata: bool = True
    prompt_in_manifest: bool = False
    max_manifest_bytes: Annotated[int, Field(ge=64 << 10, le=64 << 20)] = 1 << 20
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    watermark: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    watermark_payload: Annotated[str, Field(min_length=1, max_length=64)] = "atelier"

    @model_validator(mode="after")
    def _both_files(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file are given together, or neither is")
        return self
