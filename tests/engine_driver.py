"""Drives an engine in this process by hand: submits requests, supplies media in any order, collects what comes out."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.pb import language_pb2 as pb
from language_server.engine.arena import Arena
from language_server.engine.build import build_engine
from language_server.engine.options import EngineOptions


@dataclass(kw_only=True)
class Outcome:
    """What one request has brought so far."""

    tokens: list[int] = field(default_factory=list)
    admitted: pb.Admitted | None = None
    finished: pb.Finished | None = None
    cached_tokens: int | None = None  # with the first output
    needs: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[pb.TokenLogprobs] = field(default_factory=list)  # from the second token on


class EngineDriver:
    """An engine, an arena, and a supply of embeddings by media key; `withheld` keys are not delivered."""

    def __init__(self, model_dir: Path, *, inbox_bytes: int = 1 << 20, **options: object) -> None:
        self.arena = Arena.create(inbox_bytes)
        self._awake = threading.Event()
        defaults = {"dtype": "float32", "kv_cache_bytes": 4 << 20, "max_num_seqs": 16, "max_step_tokens": 256}
        self.engine, self.info = build_engine(
            EngineOptions(model_dir=str(model_dir), **{**defaults, **options}),
            self.arena,
            wake=self._awake.set,
        )
        self.supply: dict[bytes, torch.Tensor] = {}
        self.withheld: set[bytes] = set()
        self.outcomes: dict[int, Outcome] = defaultdict(Outcome)
        self.delivered: list[bytes] = []
        self._open: dict[bytes, tuple[bytes, int, int]] = {}  # grant -> (key, offset, bytes)
        self._handles = 0

    def close(self) -> None:
        """Needed after grammars: they have processes."""
        self.engine.close()

    def submit(
        self,
        prompt_ids: Sequence[int],
        spans: Sequence[pb.Span] = (),
        *,
        tokens: int = 16,
        salt: bytes = b"",
        **sampling: object,
    ) -> int:
        """Hands a request in; the outcome is found under the returned handle."""
        self._handles += 1
        resumed = sampling.pop("resumed", [])
        params = pb.SamplingParams(**{"max_tokens": tokens, "ignore_eos": True, **sampling})
        self.engine.generate(
            pb.Generate(
                handle=self._handles,
                prompt_ids=prompt_ids,
                spans=spans,
                sampling=params,
                salt=salt,
                resumed_output_ids=resumed,
            )
        )
        return self._handles

    def step(self) -> None:
        """One step, then the deliveries that it asked for."""
        events = self.engine.step()
        regions = {region.grant_id: region for region in events.opened}
        for admitted in events.events.admitted:
            self.outcomes[admitted.handle].admitted = admitted
        for need in events.events.needs:
            region = regions[need.grant.id]
            tensor = self.supply[need.key]
            self._open[need.grant.id] = (need.key, region.offset, tensor.nbytes)
            self.outcomes[need.handle].needs.append(need.key)
        for received in events.events.received:
            self.outcomes[received.handle].received.append(received.key)
        for piece in events.events.prompt_logprobs:
            outcome = self.outcomes[piece.handle]
            assert piece.start == 1 + len(outcome.prompt_logprobs), "pieces come in order, and none twice"
            assert not outcome.tokens, "a piece after the first token"
            outcome.prompt_logprobs += piece.tokens
        for output in events.events.outputs:
            outcome = self.outcomes[output.handle]
            assert len(output.logprobs) in (0, len(output.token_ids))
            assert output.HasField("cached_tokens") == (not outcome.tokens), "it comes with the first output"
            if not outcome.tokens:
                outcome.cached_tokens = output.cached_tokens
            outcome.tokens += output.token_ids
            outcome.logprobs += output.logprobs
        for finished in events.events.finished:
            outcome = self.outcomes[finished.handle]
            assert outcome.finished is None, "a request that ended twice"
            assert outcome.cached_tokens in (None, finished.cached_tokens)
            outcome.finished = finished
        for grant_id in events.revoked:
            self._open.pop(grant_id, None)
            self.engine.grant_closed(grant_id, "")
        self.deliver()
        self.check()

    def deliver(self) -> None:
        """Fills every open grant whose key is not withheld."""
        for grant_id, (key, offset, length) in list(self._open.items()):
            if key not in self.withheld:
                memory = self.supply[key].contiguous().view(torch.uint8).flatten()
                self.arena.region(offset, length)[:] = memory.numpy().data
                del self._open[grant_id]
                self.delivered.append(key)
                self.engine.media_filled(grant_id)

    def run(self, handles: Sequence[int], *, limit: int = 20_000) -> list[list[int]]:
        """Steps until all of `handles` have ended; their tokens."""
        for _ in range(limit):
            if all(self.outcomes[handle].finished is not None for handle in handles):
                return [self.outcomes[handle].tokens for handle in handles]
            self.step()
            if self.engine.compiling and self.engine.idle:
                assert self._awake.wait(60), "a grammar is compiled, and nobody says so"
            self._awake.clear()
        raise AssertionError(f"not finished after {limit} steps: {self.outcomes}")

    def check(self) -> None:
        """The books of the engine agree with each other."""
        engine = self.engine
        engine._blocks.check(list(engine._scheduler.unfinished.values()))
