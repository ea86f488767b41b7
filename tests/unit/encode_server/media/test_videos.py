from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from common.errors import BadMediaError, CancelledError
from encode_server.media.limits import MediaLimits
from encode_server.media.videos import decode_frames, probe_video

LIMITS = MediaLimits(max_pixels=1 << 20)
FRAMES = 30


def encode(
    codec: str = "libx264",
    container: str = "mp4",
    *,
    rotation: int | None = None,
    size: tuple[int, int] = (96, 64),
    times: Sequence[int] | None = None,
) -> bytes:
    """30 frames at 10 a second, frame i as bright as 8 * i, its upper left quarter black.

    `times`: in milliseconds, for frames that do not follow each other evenly.
    """
    file = io.BytesIO()
    width, height = size
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10 if times is None else 1000)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index in range(FRAMES):
            pixels = np.full((height, width, 3), 8 * index, np.uint8)
            pixels[: height // 2, : width // 2] = 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts = times[index]
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


MP4 = encode()


def with_sound() -> bytes:
    """The same with three seconds of silence, in 1024 samples a packet."""
    file = io.BytesIO()
    with av.open(io.BytesIO(MP4)) as source, av.open(file, "w", format="mp4") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("aac", rate=16000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        target.mux(audio.encode(silence))
        target.mux(audio.encode())
    return file.getvalue()


def brightness(frame: npt.NDArray[np.uint8]) -> int:
    """The index of a frame, read from its lower right quarter."""
    height, width = frame.shape[:2]
    return round(float(frame[height // 2 :, width // 2 :].mean()) / 8)


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mp4"),
        ("mpeg4", "mov"),
        ("libvpx-vp9", "webm"),
        ("libx264", "matroska"),
        ("mpeg4", "avi"),
    ],
)
def test_containers(codec: str, container: str) -> None:
    data = encode(codec, container)
    header = probe_video(data, LIMITS)
    assert (header.frames, header.fps, header.height, header.width) == (FRAMES, 10.0, 64, 96)
    frames = list(decode_frames(data, [0, 7, 7, 21, 29], LIMITS))
    assert [brightness(frame) for frame in frames] == [0, 7, 7, 21, 29]
    assert {frame.shape for frame in frames} == {(64, 96, 3)}


@pytest.mark.parametrize(("rotation", "dark"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_is_undone(rotation: int, dark: tuple[int, int]) -> None:
    """The display matrix turns counter-clockwise; `dark` is the quarter that the black one ends in."""
    data = encode(rotation=rotation)
    header = probe_video(data, LIMITS)
    shown = (64, 96) if rotation % 180 == 0 else (96, 64)
    assert (header.height, header.width) == shown
    (frame,) = decode_frames(data, [20], LIMITS)
    assert frame.shape[:2] == shown
    quarters = frame.astype(int).reshape(2, shown[0] // 2, 2, shown[1] // 2, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quarters.argmin(), (2, 2)) == dark


def test_the_rate_of_uneven_frames_is_measured() -> None:
    """As a browser records: the container states a rate that has nothing to do with what is in it."""
    times = [index * 200 + index % 3 * 20 for index in range(FRAMES)]  # five a second, shaken
    header = probe_video(encode("libvpx-vp9", "webm", times=times), LIMITS)
    assert header.frames == FRAMES
    assert header.fps == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is no video at all", "MP4, MOV, WebM, MKV and AVI"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret\n", "MP4, MOV, WebM, MKV and AVI"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "MP4, MOV, WebM, MKV and AVI"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "MP4, MOV, WebM, MKV and AVI"),
        (MP4[:40], "broken or cut off"),
        (MP4[: len(MP4) // 2], "broken or cut off"),
    ],
)
def test_what_is_not_a_video(data: bytes, message: str) -> None:
    with pytest.raises(BadMediaError, match=message):
        probe_video(data, LIMITS)


def test_a_file_that_is_cut_behind_its_index(tmp_path: Path) -> None:
    """With the index in front, as for streaming, the beginning still plays."""
    path = tmp_path / "streamed.mp4"
    with (
        av.open(io.BytesIO(MP4)) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    whole = path.read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    assert probe_video(whole, LIMITS).frames == FRAMES
    with pytest.raises(BadMediaError, match=r"broken or cut off|breaks off"):
        probe_video(whole[:-700], LIMITS)


def test_sound_alone() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(BadMediaError, match="no video in it"):
        probe_video(file.getvalue(), LIMITS)


def test_damage_is_either_survived_or_told() -> None:
    rng = random.Random(0)
    whole = [MP4, encode("libvpx-vp9", "webm")]
    refused = 0
    for _ in range(120):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 5, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            header = probe_video(bytes(data), LIMITS)
            assert len(list(decode_frames(bytes(data), [0, header.frames - 1], LIMITS))) == 2
        except BadMediaError:
            refused += 1
    assert refused > 0


class TestLimits:
    def test_bytes(self) -> None:
        with pytest.raises(BadMediaError, match=f"{len(MP4)} bytes, over the limit of 1000"):
            probe_video(MP4, MediaLimits(max_bytes=1000))

    def test_pixels_of_a_frame(self) -> None:
        with pytest.raises(BadMediaError, match="96 x 64 pixels, over the limit of 6000"):
            probe_video(MP4, MediaLimits(max_pixels=6000))

    def test_seconds(self) -> None:
        with pytest.raises(BadMediaError, match="longer than the limit of 2 seconds"):
            probe_video(MP4, MediaLimits(max_seconds=2.0))

    def test_packets(self) -> None:
        assert probe_video(MP4, MediaLimits(max_packets=FRAMES + 1)).frames == FRAMES  # one that says: the end
        with pytest.raises(BadMediaError, match="more than the limit of 29 packets"):
            probe_video(MP4, MediaLimits(max_packets=29))

    def test_packets_of_other_streams(self) -> None:
        with pytest.raises(BadMediaError, match="more than the limit of 40 packets"):
            probe_video(with_sound(), MediaLimits(max_packets=40))
        assert probe_video(with_sound(), LIMITS).frames == FRAMES

    def test_pixels_in_all(self) -> None:
        limits = MediaLimits(max_decoded_pixels=10 * 64 * 96)
        assert len(list(decode_frames(MP4, [0, 9], limits))) == 2
        with pytest.raises(BadMediaError, match="in 11 frames, over the limit"):
            list(decode_frames(MP4, [0, 10], limits))


def test_nobody_wants_to_know_its_length_any_more() -> None:
    answers = iter([False] * 5)
    with pytest.raises(CancelledError):
        probe_video(MP4, LIMITS, lambda: next(answers, True))


def test_nobody_wants_it_any_more() -> None:
    asked = 0

    def is_cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    with pytest.raises(CancelledError):
        list(decode_frames(MP4, [0, 29], LIMITS, is_cancelled))
    assert asked == 5


def test_a_video_shorter_than_it_says_stops_with_its_last_frame() -> None:
    assert [brightness(frame) for frame in decode_frames(MP4, [28, 31, 33], LIMITS)] == [28, 29, 29]
    with pytest.raises(BadMediaError, match="breaks off after 30 frames"):
        list(decode_frames(MP4, [28, 60], LIMITS))


def test_the_goldens_clip_is_the_one_described() -> None:
    data = (Path(__file__).parents[3] / "goldens" / "clip.mp4").read_bytes()
    assert probe_video(data, LIMITS).frames == FRAMES
