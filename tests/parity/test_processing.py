"""Prompts, sizes, sampled frames and pixels are those of the reference processor: goldens of tests/goldens."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from common.models.mrope import mrope_positions
from common.pb import common_pb2 as pb
from common.processing import Grid, MediaOptions, video_placeholder_text
from common.processor_config import read_rules
from encode_server.media.limits import MediaLimits
from encode_server.media.processor import MediaPlan, MediaProcessor
from tests.goldens.inputs import CASES, IMAGES, VIDEOS, chat, clip, media, picture

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "deploy" / "demo" / "model"
GOLDENS = json.loads((ROOT / "tests" / "goldens" / "processing.json").read_text())

PROCESSOR = MediaProcessor(rules=read_rules(MODEL), limits=MediaLimits())
TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))


class Span:
    """As the language server locates visual rows."""

    def __init__(self, token_offset: int, grid: Grid) -> None:
        self.token_offset = token_offset
        self.grid = (grid.t, grid.h, grid.w)
        self.rows = grid.rows(2)


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def load(part: str) -> tuple[pb.MediaKind, list[bytes], MediaOptions]:
    """A golden's medium as a request brings it."""
    kind, name = part.split(":")
    if kind == "image":
        return pb.IMAGE, [png(picture(name, *IMAGES[name]))], MediaOptions()
    if kind == "file":
        return pb.VIDEO, [(ROOT / "tests" / "goldens" / name).read_bytes()], MediaOptions()
    video = VIDEOS[name]
    frames = clip(name, video.frames, video.height, video.width)
    if not video.sampled:
        return pb.FRAMES, [png(frame) for frame in frames], MediaOptions(fps=video.fps)
    # an array of frames is no format of a request: sampled here, then a list of frames
    rules = PROCESSOR.rules.video
    assert rules is not None
    return pb.FRAMES, [png(frames[index]) for index in rules.sample(video.frames, video.fps)], MediaOptions()


def plans(name: str) -> list[MediaPlan]:
    return [PROCESSOR.plan(*load(part)) for part in media(CASES[name])]


def timestamps(part: str, plan: MediaPlan) -> list[float]:
    """A sampled array's come from the indices in the whole clip, as for a file."""
    name = part.split(":")[1]
    if part.startswith("video:") and VIDEOS[name].sampled:
        rules, video = PROCESSOR.rules.video, VIDEOS[name]
        assert rules is not None
        return rules.timestamps(rules.sample(video.frames, video.fps), video.fps)
    return list(plan.timestamps)


def test_the_goldens_are_of_the_default_processors() -> None:
    assert GOLDENS["processors"] == ["Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"]
    assert set(GOLDENS["cases"]) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_pixels(name: str) -> None:
    for part, golden in zip(media(CASES[name]), GOLDENS["cases"][name]["media"], strict=True):
        kind, parts, options = load(part)
        plan = PROCESSOR.plan(kind, parts, options)
        patches = PROCESSOR.patches(plan, parts).numpy()
        assert [plan.grid.t, plan.grid.h, plan.grid.w] == golden["grid"]
        samples = patches.ravel()[np.linspace(0, patches.size - 1, len(golden["samples"])).astype(int)]
        if kind == pb.VIDEO:
            # FFmpeg's conversion to RGB is not promised to round alike on every processor: two steps of 1/255
            assert np.abs(samples - golden["samples"]).max() <= 2 / 127.5 + 1e-6
        else:
            assert np.abs(samples - golden["samples"]).max() <= 1e-6
            assert hashlib.sha256(patches.tobytes()).hexdigest() == golden["sha256"]


@pytest.mark.parametrize("name", CASES)
def test_sampled_frames_and_timestamps(name: str) -> None:
    for part, plan, golden in zip(media(CASES[name]), plans(name), GOLDENS["cases"][name]["media"], strict=True):
        assert timestamps(part, plan) == golden.get("timestamps", [])
        if plan.kind == pb.VIDEO:
            assert list(plan.indices) == golden["indices"]


@pytest.mark.parametrize("name", CASES)
def test_prompt_and_positions(name: str) -> None:
    golden = GOLDENS["cases"][name]
    template = AutoTokenizer.from_pretrained(MODEL)
    text = template.apply_chat_template(chat(CASES[name]), tokenize=False, add_generation_prompt=True)
    assert text == golden["text"]

    ids: list[int] = []
    spans: list[Span] = []
    pads = {TOKENIZER.token_to_id("<|image_pad|>"), TOKENIZER.token_to_id("<|video_pad|>")}
    waiting = list(zip(media(CASES[name]), plans(name), strict=True))
    for token in TOKENIZER.encode(text, add_special_tokens=False).ids:
        if token not in pads:
            ids.append(token)
            continue
        part, plan = waiting.pop(0)
        if plan.kind == pb.IMAGE:
            spans.append(Span(len(ids), plan.grid))
            ids += [token] * plan.rows
            continue
        frame = Grid(t=1, h=plan.grid.h, w=plan.grid.w)
        for time in timestamps(part, plan):
            run = TOKENIZER.encode(video_placeholder_text([time], frame.rows(2)), add_special_tokens=False).ids
            spans.append(Span(len(ids) + run.index(token), frame))
            ids += run
    assert ids == golden["input_ids"]

    positions, delta = mrope_positions(len(ids), spans, 2)
    assert positions.tolist() == golden["positions"]
    assert delta == golden["delta"]
