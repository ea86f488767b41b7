from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from common.errors import BadMediaError
from encode_server.media.images import decode_image, probe_image
from encode_server.media.limits import MediaLimits

LIMITS = MediaLimits(max_pixels=1 << 20, max_bytes=1 << 20)
ROOT = Path(__file__).parents[4]
WHITE = (255, 255, 255)


def picture(height: int = 40, width: int = 56) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 4, y * 6, (x * y) % 256], axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG chunk by chunk, as Pillow does not write all kinds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


def reference(data: bytes) -> npt.NDArray[np.uint8]:
    """What the image processor makes of a picture opened with Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        pixels: npt.NDArray[np.uint8] = convert_to_rgb(ImageOps.exif_transpose(image), return_numpy=True)
    return pixels


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 7}),
        ("L", "PNG", {"transparency": 0}),
        ("RGB", "PNG", {"transparency": (0, 0, 0)}),
        ("RGB", "WEBP", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "GIF", {}),
        ("P", "GIF", {"transparency": 7}),
    ],
)
def test_pixels_are_those_of_the_reference(mode: str, kind: str, options: dict[str, Any]) -> None:
    data = encode(picture().convert(mode), kind, **options)
    pixels = decode_image(data, LIMITS)
    assert pixels.shape == (40, 56, 3)
    np.testing.assert_array_equal(pixels, reference(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode: str, kind: str) -> None:
    image = picture().convert(mode)
    image.putalpha(Image.fromarray(np.linspace(0, 255, 40 * 56).reshape(40, 56).astype(np.uint8)))
    data = encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    pixels = decode_image(data, LIMITS)
    np.testing.assert_array_equal(pixels, reference(data))
    assert tuple(pixels[0, 0]) == WHITE


def test_a_picture_of_several_bands_is_that_of_the_reference() -> None:
    image = picture(1500, 900).convert("RGBA")
    image.putalpha(Image.fromarray(np.linspace(0, 255, 1500 * 900).reshape(1500, 900).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 7
    data = encode(image, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data, MediaLimits()), reference(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), kind, exif=exif)
    pixels = decode_image(data, LIMITS)
    np.testing.assert_array_equal(pixels, reference(data))
    assert pixels.shape[:2] == probe_image(data, LIMITS).upright


def test_16_bit_grey_is_scaled() -> None:
    data = encode(Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)), "PNG")
    assert decode_image(data, LIMITS)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_16_bit_grey_with_a_transparent_value() -> None:
    rows = zlib.compress(b"\0" + struct.pack(">3H", 0x8000, 0x1234, 0x1235))
    data = png(3, 1, 16, 0, (b"tRNS", struct.pack(">H", 0x1234)), (b"IDAT", rows))
    assert decode_image(data, LIMITS)[0, :, 0].tolist() == [0x80, 255, 0x12]


@pytest.mark.parametrize(("colour", "samples"), [(2, (0x80FF, 0x0100, 0xFFFF)), (6, (0x80FF, 0x0100, 0xFFFF, 0xFFFF))])
def test_16_bit_colour_is_scaled(colour: int, samples: tuple[int, ...]) -> None:
    rows = zlib.compress(b"\0" + struct.pack(f">{len(samples)}H", *samples))
    assert decode_image(png(1, 1, 16, colour, (b"IDAT", rows)), LIMITS)[0, 0].tolist() == [0x80, 0x01, 0xFF]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    first, second = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (20, 10), "blue")
    pixels = decode_image(encode(first, kind, save_all=True, append_images=[second]), LIMITS)
    assert pixels.shape == (10, 20, 3)
    assert (np.abs(pixels.astype(int) - (255, 0, 0)) <= 4).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_cut_off(kind: str) -> None:
    data = encode(picture(), kind)
    for length in (0, 5, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(BadMediaError):
            decode_image(data[:length], LIMITS)


def test_an_image_that_is_not_one() -> None:
    with pytest.raises(BadMediaError, match="JPEG, PNG, WebP and GIF"):
        decode_image(b"this is no image", LIMITS)
    for kind in ("BMP", "TIFF", "ICO"):
        with pytest.raises(BadMediaError, match="JPEG, PNG, WebP and GIF"):
            decode_image(encode(picture(), kind), LIMITS)


def test_a_header_without_an_image() -> None:
    with pytest.raises(BadMediaError, match="PNG image is broken"):
        decode_image(png(10, 10, 8, 2, (b"IDAT", b"not deflated")), LIMITS)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = png(30000, 30000, 1, 0, (b"IDAT", zlib.compress(bytes(1000))))
    with pytest.raises(BadMediaError, match="30000 x 30000 pixels, over the limit of 1048576"):
        decode_image(bomb, LIMITS)
    with pytest.raises(BadMediaError, match="30000 x 30000"):  # over Pillow's own limit too
        probe_image(bomb, MediaLimits())


def test_a_decompression_bomb_in_a_text_chunk() -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(200 << 20))
    rows = (b"IDAT", zlib.compress(bytes(4)))
    with pytest.raises(BadMediaError):
        decode_image(png(1, 1, 8, 2, (b"zTXt", text), rows), LIMITS)


def test_too_many_bytes() -> None:
    data = encode(picture(), "PNG")
    with pytest.raises(BadMediaError, match=f"{len(data)} bytes, over the limit of 100"):
        probe_image(data, MediaLimits(max_bytes=100))


def test_damage_is_either_survived_or_told() -> None:
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = [
        encode(picture(), "JPEG", exif=exif),
        encode(picture(), "PNG", exif=exif),
        encode(picture(), "WEBP", exif=exif),
        encode(picture(), "GIF"),
        encode(picture().convert("CMYK"), "JPEG"),
    ]
    refused = 0
    for _ in range(3000):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert decode_image(bytes(data), LIMITS).shape[2] == 3
        except BadMediaError:
            refused += 1
    assert refused > 300


def test_a_large_picture_is_held_about_twice() -> None:
    """Four bytes a pixel as Pillow holds it and three as it is handed on; in a process of its own, for its peak."""
    side = 4000
    data = encode(Image.new("RGBA", (side, side), (1, 2, 3, 128)), "PNG")
    script = """
import pathlib, sys
from encode_server.media.images import decode_image
from encode_server.media.limits import MediaLimits
def peak():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
data = sys.stdin.buffer.read()
before = peak()
assert len(decode_image(data, MediaLimits())) == 4000
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True, cwd=ROOT)
    assert int(done.stdout) * 1024 < 10 * side * side


def test_limits_are_checked_themselves() -> None:
    with pytest.raises(ValueError, match="max_pixels"):
        MediaLimits(max_pixels=1 << 30)
    with pytest.raises(ValueError, match="max_bytes"):
        MediaLimits(max_bytes=0)
