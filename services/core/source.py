"""Where engines get their models from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from services.core.model import DocumentKind
from services.core.network import OpenedModel


class ModelSource(Protocol):
    """Finds models by name; a store of files implements it."""

    def names(self) -> Sequence[str]:
        """Every model, sorted."""
        ...

    def fingerprint(self, name: str) -> str:
        """The digest of the version behind a name, or behind ``name@`` and the start of a digest.

        Raises:
            ModelNotFound: there is none; the message offers near names.
            InvalidParameter: several versions begin so.
        """
        ...

    def document(self, name: str, kind: DocumentKind) -> bytes:
        """What comes with a model for people, as it is stored.

        Raises:
            ModelNotFound: there is no such model.
            DocumentNotFound: it comes without one.
            ModelError: the file is not the one that its manifest names.
        """
        ...

    def open(self, name: str, device: torch.device) -> OpenedModel:
        """The model, its networks opened when they are first asked for.

        Args:
            name: its name, or ``name@digest`` for this very version, whatever becomes of the name.
            device: where its networks run.

        Raises:
            ModelNotFound: there is none.
            ModelError: its manifest cannot be used.
        """
        ...
