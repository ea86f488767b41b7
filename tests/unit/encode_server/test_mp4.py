from __future__ import annotations

import contextlib
import io
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadMediaError
from encode_server.mp4 import VideoHeader, read_video_header


def video(*, frames: int, fps: Fraction, width: int = 96, height: int = 64, container: str = "mp4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize(("frames", "fps"), [(30, Fraction(12)), (7, Fraction(30000, 1001)), (1, Fraction(25))])
def test_what_a_decoder_would_find(container: str, frames: int, fps: Fraction) -> None:
    header = read_video_header(video(frames=frames, fps=fps, container=container))
    assert header == VideoHeader(frames=frames, fps=pytest.approx(float(fps)), height=64, width=96)


def test_a_video_that_lies_on_its_side_is_turned_upright() -> None:
    data = bytearray(video(frames=3, fps=Fraction(10)))
    matrix = data.index(b"tkhd") + 4 + 40
    quarter_turn = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter_turn)
    header = read_video_header(bytes(data))
    assert (header.height, header.width) == (96, 64)


VIDEO = video(frames=5, fps=Fraction(10))


@given(st.integers(0, len(VIDEO) - 1))
@settings(max_examples=100, deadline=None)
def test_cut_off_anywhere_it_is_bad_media_or_still_whole(end: int) -> None:
    with contextlib.suppress(BadMediaError):
        assert read_video_header(VIDEO[:end]).frames == 5


@pytest.mark.parametrize("data", [b"", b"RIFF....AVI ", bytes(1000), b"\0\0\0\x08ftyp", b"\0\0\0\x08ftyp" + bytes(99)])
def test_other_things_are_bad_media(data: bytes) -> None:
    with pytest.raises(BadMediaError):
        read_video_header(data)
