"""Image files to upright RGB."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

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
# EXIF orientation -> the operation that stands the picture upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
            rgb = _to_rgb(image)
            if header.orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[header.orientation])
            return np.array(rgb)  # a copy: torch takes no array that is read-only
    except _BROKEN as error:
        raise BadMediaError(f"the {header.kind} image is broken or cut off") from error


def _to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B"):
        return _grey16_to_rgb(image)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _grey16_to_rgb(image: ImageFile.ImageFile) -> Image.Image:
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
