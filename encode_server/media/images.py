"""Image files to upright RGB."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.errors import BadMediaError
from encode_server.media.headers import ImageHeader, read_header
from encode_server.media.limits import MediaLimits

Pixels = npt.NDArray[np.uint8]

# What Pillow's readers raise on broken files: SyntaxError for a broken PNG chunk, and a Warning where those are errors.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)
# EXIF orientation -> a view of the picture that stands upright
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
# Converted at a time. Pillow makes a copy at every step, and takes four bytes a pixel for RGB too: of a large picture
# whole, that would be several times what it takes to hold it.
_BAND_PIXELS = 1 << 20


def probe_image(data: bytes, limits: MediaLimits) -> ImageHeader:
    """The header of an image within the limits; nothing is decoded.

    Raises:
        BadMediaError: not an image that can be read, or too large.
    """
    if len(data) > limits.max_bytes:
        raise BadMediaError(f"the image has {len(data)} bytes, over the limit of {limits.max_bytes}")
    header = read_header(data)
    if header.width * header.height > limits.max_pixels:
        raise BadMediaError(
            f"the image has {header.width} x {header.height} pixels, over the limit of {limits.max_pixels}"
        )
    return header


def decode_image(data: bytes, limits: MediaLimits) -> Pixels:
    """`[height, width, 3]`, upright; of an animation the first frame.

    Transparency is laid over white, as the image processor of `transformers` and Qwen's own utilities do. Of 16-bit
    samples the high byte counts. Colour profiles are ignored, as everywhere in this field.

    Raises:
        BadMediaError: not an image that can be read, cut off, broken, or too large.
    """
    header = probe_image(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
            if image.size != (header.width, header.height):
                raise BadMediaError(f"the {header.kind} image contradicts itself about its size")
            image.load()
            pixels = np.empty((header.height, header.width, 3), np.uint8)
            rows = max(1, _BAND_PIXELS // header.width)
            for top in range(0, header.height, rows):
                band = image.crop((0, top, header.width, min(top + rows, header.height)))
                pixels[top : top + rows] = np.asarray(_to_rgb(band))
        return np.ascontiguousarray(_UPRIGHT[header.orientation](pixels))
    except _BROKEN as error:
        raise BadMediaError(f"the {header.kind} image is broken or cut off") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B"):
        return _grey16_to_rgb(image)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)  # Pillow would clip at 255 where it should scale
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey.convert("RGB")
    rgba = grey.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    return _over_white(rgba)


def _over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
