"""What a text says once the tricks are taken off by which words are hidden from a list of words.

A text is read in several ways, its *views*: as it stands, with digits and signs read as the letters
that they look like, without the punctuation inside words, with stretched letters let go. A word is
found if it stands in any of them. Words are whole: a list that names ``ass`` leaves ``class``
alone. Everything takes time proportional to the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

Tokens = tuple[str, ...]

_CYRILLIC = "авсԁеһніјкӏмоԛрѕтуѵԝхьпиг"
_CYRILLIC_LOOKS = "abcdehhijklmoqpstyvwxbnnr"
_GREEK = "αβγεηικνορστυχω"
_GREEK_LOOKS = "abyenikvopstuxw"
_LATIN = "ıɩɪɑɡøđłħᴀʙᴄᴅᴇꜰɢʜᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ"
_LATIN_LOOKS = "iiiagodlhabcdefghjklmnoprstuvwyz"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_PICTURED = ("\U0001f1e6", "\U0001f150", "\U0001f170")
"""Where alphabets of letters begin that are pictures: flags, and white letters on black."""

_LOOKALIKES = str.maketrans(
    _CYRILLIC + _GREEK + _LATIN, _CYRILLIC_LOOKS + _GREEK_LOOKS + _LATIN_LOOKS
) | {ord(first) + i: letter for first in _PICTURED for i, letter in enumerate(_ALPHABET)}
"""Letters of other scripts that are read as Latin ones, after case folding (after UTS 39)."""

_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters and signs by their class that show nothing at all."""
_UNSEEN = frozenset({"Cf", "Mn", "Me"})
"""Classes of what shows nothing of its own: joiners, directions, accents."""

_LETTERS = "0134578@$!|+€"
_READ_AS = (
    str.maketrans(_LETTERS, "oieastbasiite"),
    str.maketrans(_LETTERS, "oleastbaslite"),  # a one may be an l as well
)
_WORD = re.compile(r"[^\W_]+")
_CLOSING = re.compile(r"[!|+]+(?=\s|$)")
_INSIDE = re.compile(r"(?<=[^\W_])(?:[^\w\s]|_)+(?=[^\W_])")
_STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
_OVERRIDDEN = re.compile("\u202e([^\u202c\n]*)\u202c?")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""


def folded(text: str) -> str:
    """The text without case, accents, width, fonts, invisible signs, and other scripts' lookalikes.

    Folding what was folded changes nothing.
    """
    plain = _seen(unicodedata.normalize("NFKD", text)).casefold()
    return _seen(unicodedata.normalize("NFKD", plain)).translate(_LOOKALIKES)


def _seen(text: str) -> str:
    if text.isascii():
        return text
    return "".join(
        sign for sign in text if sign not in _FILLERS and unicodedata.category(sign) not in _UNSEEN
    )


def tokens_of(text: str) -> Tokens:
    """The words of a folded text."""
    return tuple(_WORD.findall(text))


def is_unspaced(text: str) -> bool:
    """Whether a text is of a script that puts no spaces between words, if only in part."""
    return _UNSPACED.search(text) is not None


def compact(text: str) -> str:
    """A folded text without anything between its letters."""
    return "".join(tokens_of(text))


def readings(text: str) -> Iterator[str]:
    """The folded text, and where there is more than one: each way in which it can be read.

    Invisible signs may part words, and a right-to-left override shows a part turned around.
    """
    yield folded(text)
    if text.isascii():
        return
    parted = "".join(" " if unicodedata.category(sign) == "Cf" else sign for sign in text)
    if parted != text:
        yield folded(parted)
    if "\u202e" in text:
        yield folded(_OVERRIDDEN.sub(lambda found: found[1][::-1], text))


def views(reading: str) -> set[Tokens]:
    """Every way in which a reading's words may be meant."""
    spoken = _CLOSING.sub(" ", reading)
    found: set[Tokens] = set()
    for text in (reading, *(spoken.translate(table) for table in _READ_AS)):
        for joined in (text, _INSIDE.sub("", text)):
            found.add(tokens_of(joined))
            found.add(tokens_of(_STRETCHED.sub(r"\1", joined)))
    return found


def spelled_out(tokens: Tokens) -> Iterator[str]:
    """What rows of three or more single letters spell: ``s t a r`` gives ``star``."""
    row: list[str] = []
    for token in (*tokens, ""):
        if len(token) == 1:
            row.append(token)
            continue
        if len(row) > 2:
            yield "".join(row)
        row = []
