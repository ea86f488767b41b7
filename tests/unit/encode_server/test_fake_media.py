"""The fake's metadata are the real encode server's."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from common.pb import common_pb2 as pb
from common.processing import MediaOptions
from common.processor_config import read_rules
from encode_server.fake_media import plan
from encode_server.media.limits import MediaLimits
from encode_server.media.processor import MediaProcessor
from tests.unit.encode_server.test_mp4 import video

RULES = read_rules(Path(__file__).parents[3] / "deploy" / "demo" / "model")
LIMITS = MediaLimits()
REAL = MediaProcessor(rules=RULES, limits=LIMITS)


def image(width: int, height: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (1, 2, 3)).save(file, kind)
    return file.getvalue()


def agree(kind: pb.MediaKind, parts: list[bytes], options: pb.MediaOptions) -> pb.MediaMetadata:
    fake = plan(RULES, LIMITS, kind, parts, options)
    real = REAL.plan(kind, parts, MediaOptions.from_wire(options))
    assert (fake.grid.t, fake.grid.h, fake.grid.w) == (real.grid.t, real.grid.h, real.grid.w)
    assert fake.rows == real.rows
    assert list(fake.timestamps) == list(real.timestamps)
    return fake


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("size", [(64, 64), (640, 480), (33, 1000), (7, 9)])
def test_images(kind: str, size: tuple[int, int]) -> None:
    agree(pb.IMAGE, [image(*size, kind)], pb.MediaOptions())


def test_options_count() -> None:
    small = agree(pb.IMAGE, [image(640, 480)], pb.MediaOptions(max_pixels=64 * 64))
    assert small.rows < agree(pb.IMAGE, [image(640, 480)], pb.MediaOptions()).rows


@pytest.mark.parametrize("options", [{}, {"fps": 4.0}, {"num_frames": 6}])
def test_videos(options: dict[str, float]) -> None:
    data = video(frames=40, fps=Fraction(10))
    assert agree(pb.VIDEO, [data], pb.MediaOptions(**options)).timestamps


@pytest.mark.parametrize("count", [1, 4, 5])
def test_lists_of_frames(count: int) -> None:
    agree(pb.FRAMES, [image(96, 64)] * count, pb.MediaOptions(fps=2.0))
