"""Questions to token ids, as the router makes them: its own chat template, tokenizer and placeholder expansion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.models.mrope import mrope_positions
from common.pb import common_pb2
from common.pb.language_pb2 import Span
from common.processing import Grid, PatchRules
from common.processor_config import read_rules
from deploy.demo.scenes.drawing import draw, draw_clip
from deploy.demo.scenes.frozen import CLIP_FPS
from deploy.demo.scenes.question import Media, Question
from deploy.demo.scenes.scene import BOX_STEP, BOX_UNITS, Clip, Scene
from encode_server.media.patches import patchify, resize
from router.model import ServedModel
from router.prompt.expansion import PlacedItem, expand

ROUTER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A prompt as the language server gets it.

    Attributes:
        ids: tokens.
        positions: `[3, tokens]`, temporal, height and width.
        visual: `[rows]`, places of the visual rows in `ids`.
        spans: runs of visual rows.
    """

    ids: list[int]
    positions: npt.NDArray[np.int64]
    visual: npt.NDArray[np.int64]
    spans: list[Span]


class Renderer:
    """For the checkpoint whose files lie in `model_dir`; no weights are needed."""

    def __init__(self, model_dir: Path) -> None:
        self._model = ServedModel.build(
            common_pb2.ModelInfo(vision=True), {name: (model_dir / name).read_bytes() for name in ROUTER_FILES}
        )
        self._rules = read_rules(model_dir)
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
        self.end_id = int(config["text_config"]["eos_token_id"])
        self.pad_id = int(config["text_config"]["pad_token_id"])
        self.merge = int(config["vision_config"]["spatial_merge_size"])
        self.frames_per_patch = self._rules.image.temporal_patch_size
        self.coordinate_ids = [self._one(str(value)) for value in range(0, BOX_UNITS + 1, BOX_STEP)]

    def prompt(self, media: Media, question: Question) -> Rendered:
        """What the model sees before it answers `question` about `media`."""
        is_clip = isinstance(media, Clip)
        items = self.items(media)
        assert self._model.media_tokens is not None
        prompt = expand(
            self._model.template.render(messages(question, len(items), video=is_clip), tools=_tools(question)),
            images=() if is_clip else items,
            videos=items if is_clip else (),
            tokens=self._model.media_tokens,
            tokenize=self._model.tokenize,
        )
        spans = [_GridSpan.of(span) for span in prompt.spans]
        positions, _ = mrope_positions(len(prompt.ids), spans, self.merge)
        places = [np.arange(span.token_offset, span.token_offset + span.rows) for span in spans]
        visual = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
        return Rendered(ids=prompt.ids, positions=positions, visual=visual, spans=prompt.spans)

    def tokenize(self, text: str) -> list[int]:
        """As the router does."""
        return self._model.tokenize(text)

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer and the one that ends the turn."""
        return [*self._model.tokenize(text), self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, up to the end of the turn."""
        ids = list(ids)
        ids = ids[: ids.index(self.end_id)] if self.end_id in ids else ids
        text: str = self._model.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def items(self, media: Media) -> list[PlacedItem]:
        """Grid and timestamps of each medium, under keys that say only its place."""
        if isinstance(media, Clip):
            rules = self._rules.video
            assert rules is not None, "the checkpoint takes no videos"
            grid = rules.grid(media.frames, media.scene.height, media.scene.width)
            return [self._placed(0, grid, rules.timestamps(range(media.frames), CLIP_FPS))]
        return [
            self._placed(index, self._rules.image.grid(scene.height, scene.width), ())
            for index, scene in enumerate(media)
        ]

    def patches(self, media: Media) -> list[torch.Tensor]:
        """`[patches, C*T*P*P]` of each medium, preprocessed as the encode server does."""
        if isinstance(media, Clip):
            assert self._rules.video is not None
            height, width = self._rules.video.resized(media.frames, media.scene.height, media.scene.width)
            frames = torch.stack([resize(frame, height, width) for frame in draw_clip(media)])
            return [patchify(frames, self._rules.video)]
        return [self._image_patches(scene) for scene in media]

    def _image_patches(self, scene: Scene) -> torch.Tensor:
        rules: PatchRules = self._rules.image
        height, width = self._rules.image.resized(scene.height, scene.width)
        return patchify(resize(draw(scene), height, width)[None], rules)

    def _placed(self, index: int, grid: Grid, timestamps: Sequence[float]) -> PlacedItem:
        metadata = common_pb2.MediaMetadata(
            grid=common_pb2.Grid(t=grid.t, h=grid.h, w=grid.w), rows=grid.rows(self.merge), timestamps=timestamps
        )
        return PlacedItem(key=bytes([index]), metadata=metadata)

    def _one(self, text: str) -> int:
        (token,) = self._model.tokenize(text)
        return token


def messages(question: Question, media: int, *, video: bool) -> list[dict[str, Any]]:
    """The conversation up to the question, as the router hands it to the chat template."""
    turns = [*question.history, (question.text, "")]
    marks = [{"type": "video" if video else "image"}] * media
    conversation: list[dict[str, Any]] = []
    for index, (text, answer) in enumerate(turns):
        content = [*marks, {"type": "text", "text": text}] if index == 0 and media else text
        conversation.append({"role": "user", "content": content})
        if answer:
            conversation.append({"role": "assistant", "content": answer})
    return conversation


def _tools(question: Question) -> list[Mapping[str, Any]] | None:
    return [tool.schema() for tool in question.tools] or None


@dataclass(frozen=True, kw_only=True)
class _GridSpan:
    token_offset: int
    rows: int
    grid: tuple[int, int, int]

    @staticmethod
    def of(span: Span) -> _GridSpan:
        grid = span.grid
        return _GridSpan(token_offset=span.token_offset, rows=span.rows, grid=(grid.t, grid.h, grid.w))
