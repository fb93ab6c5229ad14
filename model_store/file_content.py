"""What a file is, by its content: names and suffixes lie. Nothing here unpickles or unpacks."""

from __future__ import annotations

import io
import os
import pickletools
from pathlib import Path

from model_store.limits import StoreLimits
from model_store.plain_files import read_start
from services.core.errors import TooLarge, UnsafeModel

CODE_SUFFIXES = frozenset(
    {".py", ".pyc", ".pyo", ".pyd", ".pyw", ".pyx", ".so", ".dll", ".dylib", ".ipynb"}
)
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_CALLING_OPCODES = frozenset(
    {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}
)
_HEAD_BYTES = 1 << 16
_ADVICE = "export the weights as safetensors, or the network as ONNX"


def refuse_unsafe(name: str, data: bytes) -> None:
    """Refuse content that runs code when it is loaded.

    Raises:
        UnsafeModel: it is a pickle or an archive, whatever it is called.
    """
    kind = unsafe_kind(data)
    if kind is not None:
        raise UnsafeModel(f"'{name}' is {kind}, whatever its name says: never loaded; {_ADVICE}")


def unsafe_kind(data: bytes) -> str | None:
    """What kind of unsafe file the bytes start like, or ``None``."""
    if looks_like_safetensors(data):
        return None
    if data.startswith(_ZIP_STARTS):
        return "a zip archive (torch .pt, .pt2, TorchScript or .npz)"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle"
    if _is_text_pickle(data[:_HEAD_BYTES]):
        return "a pickle"
    return None


def looks_like_safetensors(data: bytes) -> bool:
    """Whether the bytes start with a plausible header length and an opening brace."""
    length = int.from_bytes(data[:8], "little")
    return data[8:9] == b"{" and 2 <= length <= 100 << 20


def _is_text_pickle(head: bytes) -> bool:
    """Protocols 0 and 1 have no magic number: walk the opcodes, without executing any."""
    calls = False
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(head)):
            calls = calls or opcode.name in _CALLING_OPCODES
    except (ValueError, UnicodeError, IndexError, OverflowError):
        return False
    return calls


def scan_folder(folder: Path, limits: StoreLimits) -> None:
    """Refuse a folder that holds code, a pickle, an archive or a link, in use or not.

    Raises:
        UnsafeModel: naming the file.
        TooLarge: there are more entries than a model's folder may have.
    """
    pending, seen = [folder], 0
    while pending:
        here = pending.pop()
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                seen += 1
                if seen > limits.folder_entries:
                    raise TooLarge(f"the folder holds more than {limits.folder_entries} entries")
                shown = str(Path(entry.path).relative_to(folder))
                if entry.is_symlink():
                    raise UnsafeModel(f"'{shown}' is a symbolic link; put the file itself there")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    _refuse_entry(here, entry.name, shown)


def _refuse_entry(folder: Path, name: str, shown: str) -> None:
    if Path(name).suffix.lower() in CODE_SUFFIXES:
        raise UnsafeModel(f"'{shown}' is code; a model's folder holds data only: remove it")
    refuse_unsafe(shown, read_start(folder, name, _HEAD_BYTES))
