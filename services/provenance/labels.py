"""What an image file says in the open: the IPTC digital source type, and its parameters."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from PIL import ExifTags, Image

from services.provenance.containers import EXIF_PREFIX, PARAMETERS_KEYWORD, Metadata
from services.provenance.record import SOFTWARE, SOURCE_TYPES, Record, version

USER_COMMENT: Final = 0x9286
ASCII: Final = b"ASCII\x00\x00\x00"
"""How an EXIF user comment says what its characters are (CIPA DC-008, 4.6.5)."""

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType={source}
 xmp:CreatorTool={tool}/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_SOURCE_TYPE = re.compile(
    rf"DigitalSourceType[^\"'>]{{0,99}}[\"'>]\s*({re.escape(SOURCE_TYPES)}\w{{1,64}})"
)
_XMP_NAMES = ("xmp", "XML:com.adobe.xmp")


def labels_for(record: Record, *, parameters: bool) -> Metadata:
    """The metadata of an image.

    Args:
        record: what is known of it.
        parameters: whether the parameters that it was made by go into the file.
    """
    tool = f"{SOFTWARE} {version()}"
    packet = _PACKET.format(source=quoteattr(record.digital_source_type), tool=quoteattr(tool))
    if not parameters:
        return Metadata(packet.encode())
    text = record.for_the_file().encode("ascii")
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = tool
    exif.get_ifd(ExifTags.IFD.Exif)[USER_COMMENT] = ASCII + text
    block = exif.tobytes()
    return Metadata(packet.encode(), text, EXIF_PREFIX + block.removeprefix(EXIF_PREFIX))


def parameters_in(image: Image.Image) -> Mapping[str, Any] | None:
    """The parameters in an opened image; ``None`` where there are none of ours."""
    text = image.info.get(PARAMETERS_KEYWORD.decode())
    if text is None:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(USER_COMMENT, b"")
        text = comment.removeprefix(ASCII) if isinstance(comment, bytes) else comment
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "request" in found else None


def source_type_in(image: Image.Image) -> str | None:
    """The digital source type that an opened image's XMP names."""
    for name in _XMP_NAMES:
        packet = image.info.get(name)
        text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
        found = _SOURCE_TYPE.search(text) if isinstance(text, str) else None
        if found is not None:
            return found[1]
    return None


def opened(data: bytes) -> Image.Image:
    """An image with its header read and no pixel decoded.

    Raises:
        OSError: it is neither PNG, JPEG nor WebP.
    """
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
