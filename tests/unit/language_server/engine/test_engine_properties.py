"""The engine's books under random load: whatever arrives, leaves or gets lost, every request ends once, nothing leaks.

The model is a stub, so that thousands of steps cost nothing; what is tested is scheduling, room and ends.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from hypothesis import given, settings
from hypothesis import strategies as st

from common.embeddings import EmbeddingLayout
from common.errors import InvalidRequestError
from common.pb import common_pb2
from common.pb import language_pb2 as pb
from language_server.engine.arena import Arena
from language_server.engine.batch import prompt_rows
from language_server.engine.engine import Engine, EngineConfig
from language_server.engine.limits import Limits
from language_server.engine.model_runner import EmbeddingStore, PromptPiece, StepResult
from language_server.engine.sampling_params import GrammarParams
from language_server.engine.scheduler import Schedule

PLACEHOLDER = 9
LAYOUT = EmbeddingLayout(rows=1, hidden=64, levels=3, dtype=common_pb2.FLOAT32)  # 1 KiB a row
INBOX_ROWS = 24
BLOCKS, BLOCK_SIZE = 24, 4


class StubRunner:
    """Draws token 1 for everybody, with log probabilities for all who want them; checks that the rows of every chunk
    are there. Requests whose id is "none allowed" have no token to draw."""

    gauges: Mapping[str, float] = {}

    def run(self, schedule: Schedule, store: EmbeddingStore) -> StepResult:
        prompts = []
        for chunk in schedule.chunks:
            assert chunk.request.compiling is None
            for span, _, _ in chunk.request.spans_in(chunk.start, chunk.end):
                layout, tensor = store.tensor(span.key)
                assert tensor.shape == (1 + layout.levels, span.item_rows, layout.hidden)
            if chunk.request.needs_all_logits and (rows := prompt_rows(chunk, 0)) is not None:
                tokens = [pb.TokenLogprobs(rank=token) for token in rows.token_ids]
                prompts.append(PromptPiece(request=rows.request, start=rows.start, tokens=tokens))
        sampled = [chunk.request for chunk in schedule.chunks if chunk.samples]
        return StepResult(
            draws=[InvalidRequestError("none") if r.request_id == "none allowed" else 1 for r in sampled],
            logprobs={i: pb.TokenLogprobs(rank=1) for i, r in enumerate(sampled) if r.sampling.logprobs is not None},
            prompts=prompts,
        )


class StubMatcher:
    """A grammar that is complete after so many tokens."""

    active = True
    error = None

    def __init__(self, left: int) -> None:
        self.left = left

    def feed(self, token: int) -> None:
        self.left -= 1

    @property
    def complete(self) -> bool:
        return self.left <= 0


class StubCompiler:
    """Grammars whose source is the number of tokens that they allow; -1 can't be compiled."""

    gauges: Mapping[str, float] = {}

    def __init__(self) -> None:
        self.pending: list[tuple[Future[StubMatcher], int]] = []

    def submit(
        self, grammar: GrammarParams, output_ids: Sequence[int], stop_ids: frozenset[int]
    ) -> Future[StubMatcher]:
        future: Future[StubMatcher] = Future()
        self.pending.append((future, int(grammar.source)))
        return future

    def finish_one(self, rng: random.Random) -> None:
        future, size = self.pending.pop(rng.randrange(len(self.pending)))
        if not future.set_running_or_notify_cancel():
            return
        if size < 0:
            future.set_exception(InvalidRequestError("the grammar can't be used"))
        else:
            future.set_result(StubMatcher(size))


def make_engine(**overrides: object) -> Engine:
    limits = Limits(
        vocab_size=100,
        max_model_len=BLOCKS * BLOCK_SIZE,
        max_item_rows=INBOX_ROWS,
        merge_size=1,
        placeholder_ids=frozenset([PLACEHOLDER]),
        eos_ids=frozenset([2]),
    )
    values: dict[str, object] = {
        "limits": limits,
        "layout": LAYOUT,
        "num_blocks": BLOCKS,
        "block_size": BLOCK_SIZE,
        "max_num_seqs": 4,
        "max_step_tokens": 16,
        "max_waiting": 100,
    }
    config = EngineConfig(**{**values, **overrides})
    return Engine(config, runner=StubRunner(), arena=Arena.create(INBOX_ROWS * 1024), grammars=StubCompiler())


def random_request(rng: random.Random, handle: int) -> pb.Generate:
    ids: list[int] = []
    spans: list[pb.Span] = []
    for _ in range(rng.randrange(4)):
        ids += [rng.randrange(10, 13) for _ in range(rng.randrange(1, 6))]
        item = rng.randrange(6)
        rows = 2 + 3 * item  # up to 17 of the 24 rows that the inbox holds
        spans.append(
            pb.Span(
                key=bytes([item]) * 32,
                rows=rows,
                token_offset=len(ids),
                grid=common_pb2.Grid(t=1, h=rows, w=1),
                item_rows=rows,
            )
        )
        ids += [PLACEHOLDER] * rows
    ids += [rng.randrange(10, 13) for _ in range(rng.randrange(1, 10))]
    sampling = pb.SamplingParams(max_tokens=rng.randrange(1, 12))
    if rng.random() < 0.3:
        sampling.prompt_logprobs = 1
    if rng.random() < 0.3:
        sampling.logprobs = 1
    if rng.random() < 0.3:
        sampling.grammar.source = str(rng.randrange(-1, 12))
    return pb.Generate(
        handle=handle,
        request_id="none allowed" if rng.random() < 0.1 else "",
        prompt_ids=ids,
        spans=spans,
        sampling=sampling,
        salt=bytes([rng.randrange(2)]),
    )


class World:
    """Routers, encode servers and the front around one engine, all unreliable."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self.engine = engine
        self.rng = rng
        self.ends: dict[int, pb.Finished] = {}
        self.tokens: dict[int, int] = defaultdict(int)
        self.logprobs: dict[int, int] = defaultdict(int)
        self.prompts: dict[int, list[int]] = defaultdict(list)  # tokens that were told about
        self.admitted: set[int] = set()
        self.open: dict[bytes, tuple[int, bytes]] = {}  # grant -> (handle, key)
        self.revoking: list[bytes] = []

    def step(self, *, calm: bool = False) -> None:
        events = self.engine.step()
        session = events.events
        self.admitted.update(admitted.handle for admitted in session.admitted)
        for need in session.needs:
            assert need.handle not in self.ends
            self.open[need.grant.id] = (need.handle, need.key)
        for piece in session.prompt_logprobs:
            assert piece.handle not in self.ends, "a piece of the prompt after the end"
            assert self.tokens[piece.handle] == 0, "a piece of the prompt after a token"
            assert piece.start == 1 + len(self.prompts[piece.handle])
            self.prompts[piece.handle] += [token.rank for token in piece.tokens]
        for output in session.outputs:
            assert output.handle not in self.ends, "a token after the end"
            self.tokens[output.handle] += len(output.token_ids)
            self.logprobs[output.handle] += len(output.logprobs)
        for finished in session.finished:
            assert finished.handle not in self.ends, "two ends"
            self.ends[finished.handle] = finished
        for grant_id in events.revoked:
            self.open.pop(grant_id, None)
            self.revoking.append(grant_id)
        self._close(calm)
        self._deliver(calm)
        compiler = self.engine._grammars
        while compiler.pending and (calm or self.rng.random() < 0.3):
            compiler.finish_one(self.rng)
        requests = list(self.engine._scheduler.unfinished.values())
        self.engine._blocks.check(requests)

    def _close(self, calm: bool) -> None:
        for grant_id in list(self.revoking):
            if calm or self.rng.random() < 0.5:
                self.revoking.remove(grant_id)
                self.engine.grant_closed(grant_id, "")

    def _deliver(self, calm: bool) -> None:
        for grant_id, (handle, key) in list(self.open.items()):
            fate = 0.0 if calm else self.rng.random()
            if fate < 0.4:
                self.engine.media_filled(grant_id)
            elif fate < 0.45:
                self.engine.grant_closed(grant_id, "checksum")
            elif fate < 0.5:
                self.engine.grant_lost(handle, key, grant_id)
                continue  # stays open until it is revoked
            else:
                continue
            del self.open[grant_id]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_request_ends_once_and_nothing_leaks(seed: int) -> None:
    rng = random.Random(seed)
    engine = make_engine()
    world = World(engine, rng)
    handles = list(range(1, rng.randrange(2, 25)))
    generates = {}
    for handle in handles:
        generates[handle] = random_request(rng, handle)
        engine.generate(generates[handle])
        for _ in range(rng.randrange(4)):
            world.step()
        if rng.random() < 0.1:
            engine.abort(rng.choice(handles[:handle]))
    for _ in range(5000):
        if not engine.has_unfinished:
            break
        world.step(calm=True)
    world.step(calm=True)
    assert set(world.ends) == set(handles)
    for handle, end in world.ends.items():
        generate, sampling = generates[handle], generates[handle].sampling
        grammar = int(sampling.grammar.source) if sampling.HasField("grammar") else None
        if end.reason == pb.Finished.LENGTH:
            assert world.tokens[handle] == sampling.max_tokens
            assert grammar is None or grammar > sampling.max_tokens
        elif end.reason == pb.Finished.STOP:
            assert world.tokens[handle] == grammar
        elif end.reason == pb.Finished.ERROR:
            lost = end.error.code == common_pb2.Error.MEDIA_LOST
            too_long = end.error.code == common_pb2.Error.CONTEXT_LENGTH_EXCEEDED and handle not in world.admitted
            faulty = end.error.code == common_pb2.Error.INVALID_REQUEST and (grammar == -1 or generate.request_id)
            assert lost or too_long or faulty, end
        else:
            assert end.reason == pb.Finished.ABORTED
        assert world.logprobs[handle] == (world.tokens[handle] if sampling.HasField("logprobs") else 0)
        if world.tokens[handle] and sampling.HasField("prompt_logprobs"):
            assert world.prompts[handle] == generate.prompt_ids[1:]
        elif not sampling.HasField("prompt_logprobs"):
            assert not world.prompts[handle]
    assert engine._blocks.used == 0
    assert not engine.compiling
    assert not world.revoking
    assert {item.state.value for item in engine._media._items.values()} <= {"held"}


def test_the_oldest_request_is_never_overtaken_for_good() -> None:
    """A long request ahead of a stream of short ones finishes although there is never room for all."""
    engine = make_engine()
    world = World(engine, random.Random(0))
    engine.generate(pb.Generate(handle=1, prompt_ids=[10] * 80, sampling=pb.SamplingParams(max_tokens=16), salt=b"x"))
    handle = 1
    for _ in range(200):
        if 1 in world.ends:
            break
        handle += 1
        engine.generate(
            pb.Generate(handle=handle, prompt_ids=[11] * 8, sampling=pb.SamplingParams(max_tokens=8), salt=b"y")
        )
        world.step(calm=True)
    assert world.ends[1].reason == pb.Finished.LENGTH
    assert handle < 40


def test_a_grammar_that_is_being_compiled_stalls_nobody() -> None:
    engine = make_engine()
    sampling = pb.SamplingParams(max_tokens=5, grammar=pb.Grammar(source="3"))
    engine.generate(pb.Generate(handle=1, prompt_ids=[10] * 9, sampling=sampling))
    engine.generate(pb.Generate(handle=2, prompt_ids=[10] * 9, sampling=pb.SamplingParams(max_tokens=5)))
    ends = [finished.handle for _ in range(20) for finished in engine.step().events.finished]
    assert ends == [2]
    assert engine.idle, "waiting for a grammar is no work"
    engine._grammars.finish_one(random.Random(0))
    ends = [finished.handle for _ in range(20) for finished in engine.step().events.finished]
    assert ends == [1]


def test_a_full_queue_refuses_at_once() -> None:
    engine = make_engine(max_waiting=1, max_num_seqs=1)
    world = World(engine, random.Random(0))
    for handle in (1, 2, 3):
        engine.generate(pb.Generate(handle=handle, prompt_ids=[10], sampling=pb.SamplingParams(max_tokens=3)))
    world.step(calm=True)
    assert world.ends[3].error.code == common_pb2.Error.OVERLOADED
    assert world.admitted == {1, 2}


def test_a_deadline_ends_a_stalled_request() -> None:
    engine = make_engine()
    world = World(engine, random.Random(0))
    span = pb.Span(key=b"k" * 32, rows=2, token_offset=0, grid=common_pb2.Grid(t=1, h=2, w=1), item_rows=2)
    engine.generate(
        pb.Generate(
            handle=1,
            prompt_ids=[PLACEHOLDER] * 2 + [10],
            spans=[span],
            sampling=pb.SamplingParams(max_tokens=3),
            deadline_seconds=1e-6,
        )
    )
    engine.step()
    events = engine.step()
    assert engine.next_deadline() is None
    world.step(calm=True)
    assert not engine.has_unfinished
    assert not events.events.outputs
