"""Kind, size and orientation of an image, from its header: next to no time, whatever the image holds.

The content decides, never a name or a declared type. Formats: JPEG (ITU T.81), PNG (W3C PNG 3), GIF89a, WebP
(RFC 9649), orientation from EXIF (CIPA DC-008). Standard library only.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import BadMediaError

SUPPORTED = "JPEG, PNG, WebP and GIF"
_ORIENTATION_TAG = 0x0112
# JPEG markers that start a frame, and so hold its size; C4, C8 and CC in their midst are something else.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
# A marker that has a length: neither stuffing (00) and filling (FF) nor one of those that stand alone (01, D0 to D8).
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_WINDOW = 1 << 20  # bytes that are searched at a time; other threads stand still meanwhile
# Of a JPEG. Each goes over all pixels and may be a few bytes long; encoders write about ten.
_MOST_SCANS = 100
# Segments or chunks that are looked at: 256 MiB of empty ones would take half a minute.
_MOST_SEGMENTS = 100_000


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """`width` and `height` in pixels as stored; `orientation` is EXIF's, 1 to 8."""

    kind: str  # "JPEG", "PNG", "WEBP" or "GIF": Pillow's names
    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) as shown: orientations 5 to 8 lie on their side."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file.

    Raises:
        BadMediaError: no image, not one of the supported kinds, or cut off within its header.
    """
    if not data:
        raise BadMediaError("the image is empty")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            header = ImageHeader(kind="GIF", width=_u16le(data, 6), height=_u16le(data, 8))
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            raise BadMediaError(f"not an image that can be read: {SUPPORTED} are")
    except (struct.error, IndexError) as error:
        raise BadMediaError("the image is cut off within its header") from error
    if not (header.width and header.height):
        raise BadMediaError(f"the image has no pixels ({header.width} x {header.height})")
    return header


def _u16le(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<H", data, offset)[0]
    return value


def _jpeg(data: bytes) -> ImageHeader:
    size: tuple[int, int] | None = None
    orientation = 1
    scans = 0
    may_have_many = data.count(b"\xff\xda") > _MOST_SCANS  # else nothing behind the first one needs a look
    for marker, start, end in _jpeg_segments(data):
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise BadMediaError(f"the JPEG image has more than {_MOST_SCANS} scans")
            if not may_have_many:
                break
        elif marker in _START_OF_FRAME and size is None:
            height, width = struct.unpack_from(">HH", data, start + 1)
            size = (width, height)
        elif marker == _APP1 and data.startswith(b"Exif\0\0", start):
            orientation = _orientation(data[start + 6 : end])
    if size is None:
        raise BadMediaError("the image is cut off within its header")
    return ImageHeader(kind="JPEG", width=size[0], height=size[1], orientation=orientation)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment's content; what stands between them, such as coded pixels, is skipped."""
    offset = 2
    for _ in range(_MOST_SEGMENTS):
        offset = _next_marker(data, offset)
        if offset < 0 or data[offset + 1] == _END_OF_IMAGE:
            return
        end = offset + 2 + struct.unpack_from(">H", data, offset + 2)[0]
        yield data[offset + 1], offset + 4, end
        offset = max(end, offset + 4)
    raise BadMediaError(f"the JPEG image has more than {_MOST_SEGMENTS} segments")


def _next_marker(data: bytes, offset: int) -> int:
    """Where it begins; -1 if there is none."""
    for begin in range(offset, len(data), _WINDOW):
        if found := _MARKER.search(data, begin, begin + _WINDOW + 1):
            return found.start()
    return -1


def _png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise BadMediaError("the PNG image does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    exif = _png_chunk(data, b"eXIf")  # may stand behind the pixels
    return ImageHeader(kind="PNG", width=width, height=height, orientation=_orientation(exif))


def _webp(data: bytes) -> ImageHeader:
    name = data[12:16]
    if name == b"VP8 ":  # lossy: 3 bytes of frame tag and 3 of start code, then 14 bits each
        width, height = _u16le(data, 26) & 0x3FFF, _u16le(data, 28) & 0x3FFF
        return ImageHeader(kind="WEBP", width=width, height=height)
    if name == b"VP8L":  # lossless: a signature byte, then 14 bits each of size - 1
        bits = struct.unpack_from("<I", data, 21)[0]
        return ImageHeader(kind="WEBP", width=(bits & 0x3FFF) + 1, height=(bits >> 14 & 0x3FFF) + 1)
    if name != b"VP8X":
        raise BadMediaError("the WebP image does not begin with its header")
    # extended: 24 bits each of size - 1, then more chunks
    canvas = struct.unpack_from("<HBHB", data, 24)
    width, height = canvas[0] + (canvas[1] << 16) + 1, canvas[2] + (canvas[3] << 16) + 1
    exif = _webp_chunk(data, b"EXIF").removeprefix(b"Exif\0\0")
    return ImageHeader(kind="WEBP", width=width, height=height, orientation=_orientation(exif))


def _png_chunk(data: bytes, name: bytes) -> bytes:
    """Content of the first chunk of that name; empty if there is none."""
    offset = 8
    for _ in range(_MOST_SEGMENTS):
        if offset + 8 > len(data):
            break
        length, found = struct.unpack_from(">I4s", data, offset)
        if found == name:
            return data[offset + 8 : offset + 8 + length]
        offset += 12 + length  # with the checksum
    return b""


def _webp_chunk(data: bytes, name: bytes) -> bytes:
    """Likewise."""
    offset = 12
    for _ in range(_MOST_SEGMENTS):
        if offset + 8 > len(data):
            break
        found, length = struct.unpack_from("<4sI", data, offset)
        if found == name:
            return data[offset + 8 : offset + 8 + length]
        offset += 8 + length + length % 2  # padded
    return b""


def _orientation(exif: bytes) -> int:
    """From an EXIF block (TIFF, first directory); 1, upright, where it is broken: it is only a hint."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        directory: int = struct.unpack_from(f"{order}I", exif, 4)[0]
        entries: int = struct.unpack_from(f"{order}H", exif, directory)[0]
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return int(value) if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
