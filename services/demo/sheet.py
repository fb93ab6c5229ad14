"""One picture of everything that was made: small images enlarged by whole pixels, captioned."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from services.demo.exhibits import Exhibit

TILE = 128
GAP = 16
CAPTION_SIZE = 13
CAPTION_LINES = 3
TITLE_SIZE = 18
COLUMNS = 8
INK, PAPER, FAINT = (25, 25, 30), (250, 249, 246), (110, 110, 115)


@dataclass(frozen=True, slots=True)
class Type:
    """The faces that captions and titles are set in."""

    caption: ImageFont.FreeTypeFont | ImageFont.ImageFont
    title: ImageFont.FreeTypeFont | ImageFont.ImageFont

    @property
    def caption_height(self) -> int:
        """Pixels that a caption takes."""
        return CAPTION_LINES * (CAPTION_SIZE + 3)


def contact_sheet(exhibits: Sequence[Exhibit]) -> Image.Image:
    """Every exhibit as a titled row of captioned tiles."""
    faces = Type(ImageFont.load_default(size=CAPTION_SIZE), ImageFont.load_default(size=TITLE_SIZE))
    row_height = TITLE_SIZE + 10 + TILE + 4 + faces.caption_height + GAP
    width = GAP + COLUMNS * (TILE + GAP)
    sheet = Image.new("RGB", (width, GAP + row_height * len(exhibits)), PAPER)
    for row, exhibit in enumerate(exhibits):
        _draw_row(sheet, exhibit, GAP + row * row_height, faces)
    return sheet


def _draw_row(sheet: Image.Image, exhibit: Exhibit, top: int, faces: Type) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, top), exhibit.title, fill=INK, font=faces.title)
    wide = len(exhibit.images) <= COLUMNS // 2
    step = 2 * (TILE + GAP) if wide else TILE + GAP
    for place, (image, caption) in enumerate(zip(exhibit.images, exhibit.captions, strict=True)):
        left, upper = GAP + place * step, top + TITLE_SIZE + 10
        sheet.paste(enlarged(image), (left, upper))
        text = "\n".join(textwrap.wrap(caption, 38 if wide else 18)[:CAPTION_LINES])
        pen.text((left, upper + TILE + 4), text, fill=FAINT, font=faces.caption)


def enlarged(image: bytes) -> Image.Image:
    """An image as a tile, every pixel a block: nothing is smoothed that the model did not make."""
    tile = Image.open(io.BytesIO(image)).convert("RGB")
    return tile.resize((TILE, TILE), Image.Resampling.NEAREST)
