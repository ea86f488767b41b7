from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from common.errors import BadMediaError
from encode_server.media.headers import ImageHeader, read_header


def encode(kind: str, size: tuple[int, int] = (56, 40), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x010F] = "a maker"  # another entry before it
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("size", [(56, 40), (1, 1), (3000, 2), (300, 700)])
def test_kind_and_size(kind: str, size: tuple[int, int]) -> None:
    assert read_header(encode(kind, size)) == ImageHeader(kind=kind, width=size[0], height=size[1])


def test_variants() -> None:
    for options in ({"progressive": True}, {"icc_profile": b"\0" * 70000}, {"comment": b"\xff\xc0 no frame"}):
        assert read_header(encode("JPEG", **options)) == ImageHeader(kind="JPEG", width=56, height=40)
    for options in ({"lossless": True}, {"icc_profile": b"\0" * 99}):
        assert read_header(encode("WEBP", **options)) == ImageHeader(kind="WEBP", width=56, height=40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int) -> None:
    header = read_header(encode(kind, exif=exif(orientation)))
    assert header.orientation == orientation
    assert header.upright == ((56, 40) if orientation > 4 else (40, 56))


def test_orientation_behind_the_pixels() -> None:
    with_exif = encode("PNG", exif=exif(6))
    start = with_exif.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(with_exif[start : start + 4])
    moved = with_exif[:start] + with_exif[end:-12] + with_exif[start:end] + with_exif[-12:]
    assert read_header(moved).orientation == 6


@pytest.mark.parametrize("block", [b"", b"MM", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"what is this?"])
def test_a_broken_orientation_is_none(block: bytes) -> None:
    assert read_header(encode("JPEG", exif=b"Exif\0\0" + block)).orientation == 1


def test_an_orientation_that_does_not_exist_is_none() -> None:
    assert read_header(encode("PNG", exif=exif(9))).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_cut_off_anywhere_in_the_header(kind: str) -> None:
    whole = encode(kind)
    end = whole.index(b"\xff\xc0") + 8 if kind == "JPEG" else {"PNG": 23, "WEBP": 29, "GIF": 9}[kind]
    for length in range(end):
        with pytest.raises(BadMediaError):
            read_header(whole[:length])
    assert read_header(whole[: end + 1]).width == 56


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, this is text", "JPEG, PNG, WebP and GIF"),
        (b"%PDF-1.7 ...", "JPEG, PNG, WebP and GIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG, PNG, WebP and GIF"),
        (b"BM" + bytes(60), "JPEG, PNG, WebP and GIF"),
        (b"RIFF\0\0\0\0WAVEfmt ", "JPEG, PNG, WebP and GIF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT" + bytes(20), "does not begin with its header"),
        (b"GIF89a" + bytes(10), "no pixels"),
    ],
)
def test_what_is_not_an_image(data: bytes, message: str) -> None:
    with pytest.raises(BadMediaError, match=message):
        read_header(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + b"\xff" * (8 << 20),
        b"\xff\xd8\xff\xe0" + b"\0" * (8 << 20),
        b"\xff\xd8" + b"\xff\xe0\0\2" * (2 << 20),
    ],
)
def test_endless_headers_are_given_up(data: bytes) -> None:
    with pytest.raises(BadMediaError, match=r"cut off|more than 100000 segments"):
        read_header(data)


def progressive(scans: int, *, between: bytes = b"") -> bytes:
    """A grey picture whose last scan comes again and again: a few bytes each, and each a pass over all pixels."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + (whole[last:-2] + between) * (scans - whole[:last].count(b"\xff\xda")) + b"\xff\xd9"


@pytest.mark.parametrize("between", [b"", b"\xff\xfe\0\4no", b"\xff\xff\xff"])
def test_a_jpeg_of_thousands_of_scans_is_refused(between: bytes) -> None:
    assert read_header(progressive(100, between=between)).width == 64
    for scans in (101, 5000):
        with pytest.raises(BadMediaError, match="more than 100 scans"):
            read_header(progressive(scans, between=between))


def test_what_only_looks_like_scans_is_none() -> None:
    lookalikes = b"\xff\xda\0\x08" * 1000
    assert read_header(encode("JPEG", comment=lookalikes)).width == 56
    assert read_header(encode("JPEG") + lookalikes).width == 56  # a phone's film behind its picture


def test_the_search_for_an_orientation_is_given_up() -> None:
    many = encode("PNG")[:33] + (bytes(4) + b"teXt" + bytes(4)) * 700_000
    assert read_header(many + encode("PNG", exif=exif(6))[33:]).orientation == 1
