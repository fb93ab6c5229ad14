"""The words of the captioned shapes, as the data a tokenizer reads them with.

A prompt is read word by word: a value or synonym fills its slot, an ignored word is passed over,
anything else is refused by name. Colors and backgrounds share no word, so "a red circle on white"
needs no grammar.
"""

from __future__ import annotations

from typing import Any

from model_store.recipes import shapes

SYNONYMS: dict[str, dict[str, str]] = {
    "shape": {
        "disk": "circle",
        "disc": "circle",
        "dot": "circle",
        "ball": "circle",
        "round": "circle",
        "box": "square",
        "donut": "ring",
        "doughnut": "ring",
        "annulus": "ring",
        "hoop": "ring",
        "plus": "cross",
        "pentagram": "star",
        "circles": "circle",
        "squares": "square",
        "triangles": "triangle",
        "rings": "ring",
        "crosses": "cross",
        "stars": "star",
    },
    "color": {
        "crimson": "red",
        "scarlet": "red",
        "violet": "purple",
        "turquoise": "cyan",
        "aqua": "cyan",
        "golden": "yellow",
        "magenta": "pink",
    },
    "background": {"grey": "gray"},
    "size": {
        "little": "small",
        "tiny": "small",
        "big": "large",
        "huge": "large",
        "giant": "large",
    },
    "vertical": {"upper": "top", "up": "top", "above": "top", "lower": "bottom", "down": "bottom"},
    "horizontal": {"centre": "center", "central": "center", "centered": "center"},
}
"""Other words for a value, by slot."""

IGNORED = [
    "a",
    "an",
    "the",
    "at",
    "on",
    "in",
    "of",
    "to",
    "with",
    "and",
    "is",
    "it",
    "its",
    "that",
    "which",
    "there",
    "one",
    "single",
    "background",
    "backdrop",
    "behind",
    "against",
    "color",
    "colour",
    "colored",
    "coloured",
    "shape",
    "shaped",
    "size",
    "sized",
    "position",
    "positioned",
    "place",
    "placed",
    "side",
    "corner",
    "part",
    "area",
    "image",
    "picture",
    "drawing",
    "drawn",
    "painted",
    "five",
    "pointed",
    "solid",
    "flat",
    "plain",
]
"""Words that say nothing."""

IMPLIES: dict[str, dict[str, str]] = {
    "center": {"vertical": "middle"},
    "middle": {"horizontal": "center"},
}
"""What a word also says about a slot that nothing else fills."""

CAPTION = "a {size} {color} {shape} at the {vertical} {horizontal} on {background}"
"""The whole caption, as `shapes.caption` says it; what a prompt leaves open is drawn and told."""


def tokenizer() -> dict[str, Any]:
    """The tokenizer's data as it stands in a manifest.

    A slot's token is 0 when nothing is said and ``1 + i`` for its value ``i``.
    """
    return {
        "slots": {
            name: {"values": list(values), "synonyms": SYNONYMS[name]}
            for name, values in shapes.FACTORS.items()
        },
        "ignored": IGNORED,
        "implies": IMPLIES,
        "caption": CAPTION,
    }
