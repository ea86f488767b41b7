"""The disaggregated path against the reference in one process: media bytes in, logits out, over every transport."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from common.pb import common_pb2
from common.processing import MediaOptions
from common.processor_config import read_rules
from encode_server.media.limits import MediaLimits
from encode_server.media.processor import MediaProcessor
from tests.checkpoints import write_checkpoint
from tests.goldens.inputs import clip, picture
from tests.oracle import MIN_MARGIN, Answer, Oracle, Pixels
from tests.prompts import Prompt, PromptBuilder
from tests.wire_path import Media, WirePath, wire_path

TOKENS = 48
MAX_LOGIT_DIFFERENCE = 1e-4
KINDS = ("moe", "dense")

# The checkpoint's preprocessor allows from 256 to 512 * 512 pixels, and sides of up to 200 to 1.
CASES: dict[str, Callable[[str], list[str | Media]]] = {
    "text only": lambda seed: ["text 23"],
    "one image": lambda seed: ["text 5", image(seed, 96, 128), "text 9"],
    "three images interleaved": lambda seed: [
        "text 3", image(seed + "a", 64, 96), "text 7", image(seed + "b", 128, 64), "text 2", image(seed + "c", 90, 90),
        "text 8",
    ],
    "video": lambda seed: ["text 4", video(seed, 6, 64, 96), "text 6"],
    "image and video": lambda seed: ["text 4", image(seed, 64, 64), "text 3", video(seed, 4, 96, 64), "text 5"],
    "smallest image": lambda seed: ["text 6", image(seed, 1, 1), "text 6"],
    "largest image": lambda seed: ["text 6", image(seed, 1024, 1024), "text 6"],
    "widest image": lambda seed: ["text 6", image(seed, 10, 2000), "text 6"],
    "tallest image": lambda seed: ["text 6", image(seed, 2000, 10), "text 6"],
}  # fmt: skip


def image(seed: str, height: int, width: int) -> Media:
    return Media(kind=common_pb2.IMAGE, parts=(_png(picture(seed, height, width)),))


def video(seed: str, frames: int, height: int, width: int) -> Media:
    parts = tuple(_png(frame) for frame in clip(seed, frames, height, width))
    return Media(kind=common_pb2.FRAMES, parts=parts)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Case:
    """A conversation with the reference's answer to it; the first seed whose greedy choices are all clear."""

    def __init__(self, oracle: Oracle, name: str) -> None:
        processor = MediaProcessor(rules=read_rules(oracle.model_dir), limits=MediaLimits())
        for seed in range(30):
            self.media: list[Media] = []
            make = PromptBuilder(oracle.config, seed=seed)
            parts: list[list[int] | Pixels] = []
            for part in CASES[name](f"{name} {seed}"):
                if isinstance(part, Media):
                    self.media.append(part)
                    parts.append(self._pixels(processor, part))
                else:
                    parts.append(make.text(int(part.split()[1])))
            self.prompt: Prompt = make.build(*parts)
            self.answer: Answer = oracle.greedy(self.prompt.ids, self.prompt.items, tokens=TOKENS)
            if self.answer.margin > MIN_MARGIN and len(set(self.answer.tokens)) > TOKENS // 8:
                return
        raise AssertionError(f"no seed gives clear choices for {name!r}")

    @staticmethod
    def _pixels(processor: MediaProcessor, media: Media) -> Pixels:
        plan = processor.plan(media.kind, media.parts, MediaOptions())
        return Pixels(
            values=processor.patches(plan, media.parts),
            grid=(plan.grid.t, plan.grid.h, plan.grid.w),
            is_video=media.kind != common_pb2.IMAGE,
        )

    async def answer_over(self, path: WirePath) -> tuple[list[int], torch.Tensor]:
        """Tokens and logits [n, vocab] of the disaggregated path."""
        keys: dict[bytes, Media] = {}
        for key, media, item in zip(self.prompt.keys, self.media, self.prompt.items, strict=True):
            metadata = await path.metadata(media)
            assert (metadata.grid.t, metadata.grid.h, metadata.grid.w) == item.grid
            keys[key] = media
        for span in self.prompt.spans:
            if span.key in keys:
                span.key = keys[span.key].key
        tokens = await path.greedy(self.prompt.ids, self.prompt.spans, tokens=TOKENS)
        return tokens, torch.stack(path.recorder.logits)


@pytest.fixture(scope="module", params=KINDS)
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    torch.set_num_threads(1)
    return Oracle(write_checkpoint(tmp_path_factory.mktemp("model") / request.param, request.param))


@pytest.mark.parametrize("transport", ["zmq", "grpc", "local"])
async def test_logits_and_tokens_are_the_references(oracle: Oracle, transport: str) -> None:
    cases = CASES if transport == "zmq" else ("three images interleaved", "image and video")
    async with wire_path(oracle.model_dir, transport) as path:
        for name in cases:
            case = Case(oracle, name)
            tokens, logits = await case.answer_over(path)
            assert tokens == case.answer.tokens, name
            # The reference's placeholders are masked in its scores; ours are masked after the logits were recorded.
            finite = case.answer.logits.isfinite()
            difference = (logits - case.answer.logits)[finite].abs().max().item()
            assert difference <= MAX_LOGIT_DIFFERENCE, f"{name}: logits differ by {difference}"
