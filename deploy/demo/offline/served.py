"""Our own vision tower and language engine in this process, joined by memory: all of the served path but the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from common.models.config import load_config
from common.models.weights import load_vision
from common.pb import language_pb2 as pb
from deploy.demo.offline.answer import MAX_TOKENS, Answer
from deploy.demo.scenes.question import Case
from deploy.demo.train.faults import Fault
from deploy.demo.train.rendering import Renderer
from language_server.engine.arena import Arena
from language_server.engine.build import build_engine
from language_server.engine.options import EngineOptions

_ARENA_BYTES = 64 << 20
_KV_CACHE_BYTES = 32 << 20
_MAX_WAITING = 100_000  # all questions come at once


class Served:
    """A checkpoint in `dtype`; answers many questions in one go, batched as the engine likes."""

    def __init__(self, model_dir: Path, dtype: torch.dtype) -> None:
        self._renderer = Renderer(model_dir)
        self._dtype = dtype
        self._merge = self._renderer.merge
        self._vision = load_vision(model_dir, dtype=dtype)
        self._hidden = load_config(model_dir).text.hidden_size
        self._arena = Arena.create(_ARENA_BYTES)
        options = EngineOptions(
            model_dir=str(model_dir),
            dtype="float32" if dtype == torch.float32 else "bfloat16",
            kv_cache_bytes=_KV_CACHE_BYTES,
            max_waiting=_MAX_WAITING,
        )
        self._engine, _ = build_engine(options, self._arena)
        self._runs = 0

    def close(self) -> None:
        self._arena.close()

    @torch.inference_mode()
    def answers(self, cases: Sequence[Case], fault: Fault | None) -> list[Answer]:
        """To the only question of each case.

        Raises:
            RuntimeError: the engine ended a request with an error.
        """
        self._runs += 1
        embeddings: dict[bytes, torch.Tensor] = {}
        for handle, case in enumerate(cases):
            embeddings |= self._submit(handle, case, fault)
        made: list[list[int]] = [[] for _ in cases]
        unfinished = set(range(len(cases)))
        while unfinished:
            step = self._engine.step()
            for grant_id in step.revoked:
                self._engine.grant_closed(grant_id, "")
            offsets = {region.grant_id: region.offset for region in step.opened}
            for need in step.events.needs:
                content = embeddings[need.key].contiguous().view(torch.uint8).flatten().numpy()
                self._arena.region(offsets[need.grant.id], len(content))[:] = content.data
                self._engine.media_filled(need.grant.id)
            for output in step.events.outputs:
                made[output.handle] += output.token_ids
            for finished in step.events.finished:
                if finished.reason not in (pb.Finished.STOP, pb.Finished.LENGTH):
                    raise RuntimeError(f"question {finished.handle} ended so: {finished}")
                unfinished.remove(finished.handle)
        return [Answer(text=self._renderer.decode(ids)) for ids in made]

    def _submit(self, handle: int, case: Case, fault: Fault | None) -> dict[bytes, torch.Tensor]:
        """Hands the question in; returns main and levels of its media by key, `[1 + L, n, H]`."""
        (question,) = case.questions
        prompt = self._renderer.prompt(case.media, question)
        items = self._renderer.items(case.media)
        keys = {item.key: _key(self._runs, handle, index) for index, item in enumerate(items)}
        spans = []
        for span in prompt.spans:
            renamed = pb.Span()
            renamed.CopyFrom(span)
            renamed.key = keys[span.key]
            spans.append(renamed)
        self._engine.generate(
            pb.Generate(
                handle=handle,
                prompt_ids=prompt.ids,
                spans=spans,
                sampling=pb.SamplingParams(max_tokens=MAX_TOKENS),
            )
        )
        made = {}
        for item, patches in zip(items, self._renderer.patches(case.media), strict=True):
            grid = item.metadata.grid
            merged = self._vision.visual(patches.to(self._dtype), torch.tensor([(grid.t, grid.h, grid.w)]))
            main, *levels = merged.split(self._hidden, dim=1)
            deep = torch.stack(levels)
            made[keys[item.key]] = torch.stack([main, *(fault(deep) if fault else deep)])
        return made


def _key(run: int, handle: int, index: int) -> bytes:
    """A media key, of its own for each question of each run: with another fault it is another embedding."""
    return hashlib.sha256(f"{run}/{handle}/{index}".encode()).digest()
