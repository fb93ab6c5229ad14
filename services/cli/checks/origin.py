"""By whose certificate images are signed."""

from __future__ import annotations

import datetime

from services.cli.checks.finding import Finding, Surroundings
from services.core.errors import AtelierError
from services.provenance.credentials import DEVELOPMENT_CA_FILE, UNTRUSTED, load_credentials

SOON_DAYS = 30


def check_provenance(surroundings: Surroundings) -> list[Finding]:
    """By whose certificate images are signed, and for how long that is good."""
    settings = surroundings.settings
    if settings is None:
        return []
    if not settings.provenance.enabled:
        why, advice = "images do not say where they come from", "ATELIER_PROVENANCE__ENABLED=true"
        return [Finding("note", "provenance", "off", why, advice)]
    if settings.provenance.certificate_file is None:
        advice = (
            "set ATELIER_PROVENANCE__CERTIFICATE_FILE and ATELIER_PROVENANCE__KEY_FILE, or give "
            f"verifiers {settings.provenance_folder / DEVELOPMENT_CA_FILE}, which the first start "
            "makes"
        )
        why = "verifiers say of the images that nobody known signed them"
        return [Finding("note", "provenance", UNTRUSTED, why, advice)]
    from services.provenance.signing import ManifestSigner  # noqa: PLC0415 - a native library

    try:
        credentials = load_credentials(settings.provenance, settings.provenance_folder)
        ManifestSigner(credentials, max_manifest_bytes=settings.provenance.max_manifest_bytes)
    except AtelierError as error:
        return [Finding("broken", "provenance", error.message, "no image can be signed")]
    left = credentials.expires - datetime.datetime.now(datetime.UTC)
    found = f"certificate good for {left.days} days"
    if left.days < SOON_DAYS:
        why = "images signed after that are called invalid"
        return [Finding("warning", "provenance", found, why, "have the certificate renewed")]
    return [Finding("ok", "provenance", found)]
