"""How one version of a model is named: the model's name, ``@``, and the start of its digest.

A version is what a manifest says, which names the digests of all files; so the same seed and
parameters with the same version give the same image. A name alone is whatever version is served.
"""

from __future__ import annotations

import re
from typing import Final

from services.core.errors import ModelNotFound

SEPARATOR: Final = "@"
SHORTEST: Final = 8
"""Hexadecimal digits of a digest that name a version; fewer could soon be ambiguous."""
LONGEST_REFERENCE: Final = 129
"""Characters of a name of 64, the ``@``, and a whole digest."""
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST},64}}")


def split_version(reference: str) -> tuple[str, str]:
    """A model's name, and the start of a version's digest; empty where none is asked for.

    Raises:
        ModelNotFound: what stands behind the ``@`` is no start of a digest.
    """
    name, separator, prefix = reference.partition(SEPARATOR)
    if separator and not _PREFIX.fullmatch(prefix):
        raise ModelNotFound(
            f"'{prefix[:64]}' is no version of '{name[:64]}': behind the @ stand {SHORTEST} to 64 "
            "digits of its digest, in lower-case hexadecimal; GET /v1/models says a model's digest",
            param="model",
        )
    return name, prefix


def of_version(name: str, digest: str) -> str:
    """The reference to a version of a model; to whatever is served where the digest is empty."""
    return f"{name}{SEPARATOR}{digest}" if digest else name
