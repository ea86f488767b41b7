from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import BadMediaError, CancelledError, InvalidRequestError
from common.pb import common_pb2 as pb
from common.processing import Grid, MediaOptions
from common.processor_config import read_rules
from encode_server.media.limits import MediaLimits
from encode_server.media.processor import MediaProcessor
from tests.goldens.inputs import picture

ROOT = Path(__file__).parents[4]
PROCESSOR = MediaProcessor(rules=read_rules(ROOT / "deploy" / "demo" / "model"), limits=MediaLimits())
CLIP = (ROOT / "tests" / "goldens" / "clip.mp4").read_bytes()
NONE = MediaOptions()


def png(height: int, width: int, seed: str = "processor") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed, height, width)).save(file, "png")
    return file.getvalue()


def test_the_plan_of_an_image() -> None:
    plan = PROCESSOR.plan(pb.IMAGE, [png(200, 300)], NONE)
    assert plan.grid == Grid(t=1, h=12, w=18)
    assert plan.rows == 54
    assert plan.timestamps == ()
    assert plan.patch_shape == PROCESSOR.patches(plan, [png(200, 300)]).shape == (216, 1536)


def test_sample_images_of_the_demo() -> None:
    for path in sorted((ROOT / "deploy" / "demo" / "images").iterdir()):
        parts = [path.read_bytes()]
        plan = PROCESSOR.plan(pb.IMAGE, parts, NONE)
        assert PROCESSOR.patches(plan, parts).shape == plan.patch_shape


def test_options_change_the_plan() -> None:
    assert PROCESSOR.plan(pb.IMAGE, [png(300, 300)], MediaOptions(max_pixels=128 * 128)).grid == Grid(t=1, h=8, w=8)
    plan = PROCESSOR.plan(pb.VIDEO, [CLIP], MediaOptions(num_frames=4))
    assert plan.indices == (0, 10, 19, 29)
    assert plan.timestamps == (0.5, 2.4)
    assert PROCESSOR.plan(pb.VIDEO, [CLIP], MediaOptions(fps=1.0)).indices == (0, 10, 19, 29)
    assert PROCESSOR.plan(pb.VIDEO, [CLIP], MediaOptions(fps=10.0, max_frames=5)).indices == (0, 7, 14, 22, 29)


def test_a_file_and_its_frames_are_the_same_video() -> None:
    import av

    plan = PROCESSOR.plan(pb.VIDEO, [CLIP], NONE)
    with av.open(io.BytesIO(CLIP)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    parts = []
    for index in plan.indices:
        file = io.BytesIO()
        Image.fromarray(pictures[index]).save(file, "png")
        parts.append(file.getvalue())
    of_frames = PROCESSOR.plan(pb.FRAMES, parts, NONE)
    assert of_frames.grid == plan.grid
    assert torch.equal(PROCESSOR.patches(of_frames, parts), PROCESSOR.patches(plan, [CLIP]))


def test_the_rate_of_a_list_of_frames() -> None:
    parts = [png(64, 64)] * 3
    assert PROCESSOR.plan(pb.FRAMES, parts, MediaOptions(fps=4.0)).timestamps == (0.125, 0.5)
    assert PROCESSOR.plan(pb.FRAMES, parts, NONE).timestamps == (0.25, 1.0), "the rate that the model samples at"


def test_into_a_buffer() -> None:
    parts = [png(64, 128)]
    plan = PROCESSOR.plan(pb.IMAGE, parts, NONE)
    buffer = torch.empty(plan.patch_shape)
    assert PROCESSOR.patches(plan, parts, out=buffer) is buffer
    assert torch.equal(buffer, PROCESSOR.patches(plan, parts))


@pytest.mark.parametrize(
    ("kind", "parts", "options", "message"),
    [
        (pb.IMAGE, [png(64, 64)], MediaOptions(fps=1.0), "fps is an option of videos"),
        (pb.IMAGE, [png(64, 64)], MediaOptions(max_pixels=1 << 30), "over the 262144"),
        (pb.VIDEO, [CLIP], MediaOptions(max_frames=1000), "over the 64 frames"),
        (pb.FRAMES, [png(64, 64)] * 2, MediaOptions(num_frames=2), "not of a list of frames"),
    ],
)
def test_options_that_can_not_be_honoured(
    kind: pb.MediaKind, parts: list[bytes], options: MediaOptions, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        PROCESSOR.plan(kind, parts, options)
    assert not isinstance(caught.value, BadMediaError)


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        (pb.IMAGE, [b"text"], "not an image"),
        (pb.IMAGE, [CLIP], "not an image"),
        (pb.VIDEO, [png(64, 64)], "not a video"),
        (pb.IMAGE, [png(1, 300)], "300 x 1 pixels: one side is over 200 times"),
        (pb.FRAMES, [png(64, 64), png(64, 65)], "one size"),
        (pb.FRAMES, [png(64, 64), b""], "empty"),
        (pb.FRAMES, [png(32, 32)] * 65, "65 frames, over the limit of 64"),
    ],
)
def test_media_that_can_not_be_used(kind: pb.MediaKind, parts: list[bytes], message: str) -> None:
    with pytest.raises(BadMediaError, match=message):
        PROCESSOR.plan(kind, parts, NONE)


def test_bytes_of_all_frames_together() -> None:
    parts = [png(64, 64)] * 4
    tight = replace(PROCESSOR, limits=MediaLimits(max_bytes=len(parts[0]) * 3))
    with pytest.raises(BadMediaError, match="bytes"):
        tight.plan(pb.FRAMES, parts, NONE)


def test_a_model_without_video() -> None:
    images_only = replace(PROCESSOR, rules=replace(PROCESSOR.rules, video=None))
    with pytest.raises(InvalidRequestError, match="takes no videos"):
        images_only.plan(pb.VIDEO, [CLIP], NONE)


@pytest.mark.parametrize(("kind", "parts"), [(pb.VIDEO, [CLIP]), (pb.FRAMES, [png(64, 64)] * 4)])
def test_cancelling(kind: pb.MediaKind, parts: list[bytes]) -> None:
    gone = threading.Event()
    gone.set()
    with pytest.raises(CancelledError):
        PROCESSOR.patches(PROCESSOR.plan(kind, parts, NONE), parts, is_cancelled=gone.is_set)


def test_one_processor_serves_many_threads() -> None:
    items = [(pb.IMAGE, [png(100 + 13 * n, 150, seed=str(n))]) for n in range(8)] + [(pb.VIDEO, [CLIP])] * 4

    def patches(item: tuple[pb.MediaKind, list[bytes]]) -> np.ndarray:
        return PROCESSOR.patches(PROCESSOR.plan(*item, NONE), item[1]).numpy()

    alone = [patches(item) for item in items]
    with ThreadPoolExecutor(8) as pool:
        for together, expected in zip(pool.map(patches, items * 3), alone * 3, strict=True):
            np.testing.assert_array_equal(together, expected)
