"""What a fake engine says about a request without media."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from common.embeddings import EmbeddingLayout
from common.pb import common_pb2, engine_pb2
from common.pb import language_pb2 as pb
from language_server.fake_engine import FakeEngine
from language_server.fake_logprobs import fake_logprobs
from language_server.fake_request import FakeAdmission
from language_server.fake_script import Rule, Script
from language_server.inbox import Inbox, InboxMetrics
from tests.unit.language_server.test_fake_request import EOS, MODEL


async def events_of(rule: Rule, generate: pb.Generate) -> list[pb.SessionEvent]:
    """Everything until the request has ended."""
    return [told.events for told in await ticks_of(rule, generate)]


async def ticks_of(rule: Rule, generate: pb.Generate) -> list[engine_pb2.EngineEvents]:
    """The same with what the engine tells beside it."""
    ended = asyncio.Event()
    events: list[engine_pb2.EngineEvents] = []

    def take(taken: engine_pb2.EngineEvents) -> None:
        events.append(taken)
        if taken.events.finished:
            ended.set()

    metrics = InboxMetrics(CollectorRegistry())
    engine = FakeEngine(
        FakeAdmission(MODEL, Script(rules=[rule]), max_item_rows=0, rate=0.0),
        shape=EmbeddingLayout(rows=1, hidden=64, levels=0, dtype=common_pb2.FLOAT32),
        inbox=Inbox(on_filled=lambda _: None, on_closed=lambda *_: None, metrics=metrics),
        on_events=take,
        capacity=1 << 20,
        max_waiting=1,
        verify=True,
    )
    engine.send(engine_pb2.EngineCommand(generate=generate))
    running = asyncio.create_task(engine.run())
    await asyncio.wait_for(ended.wait(), 60)
    running.cancel()
    return events


async def test_log_probabilities_are_told_for_every_token() -> None:
    prompt = list(range(200, 400))
    sampling = pb.SamplingParams(max_tokens=9, logprobs=4, prompt_logprobs=2)
    events = await events_of(Rule(tokens=[300, 301]), pb.Generate(handle=1, prompt_ids=prompt, sampling=sampling))
    size = MODEL.config.text.vocab_size
    told: list[pb.TokenLogprobs] = []
    pieces = [piece for event in events for piece in event.prompt_logprobs]
    for piece in pieces:
        assert piece.start == 1 + len(told)
        told += piece.tokens
    assert len(pieces) > 1
    assert told == [fake_logprobs(token, top=2, vocab_size=size) for token in prompt[1:]]
    (output,) = (output for event in events for output in event.outputs)
    assert list(output.token_ids) == [300, 301, EOS]
    assert list(output.logprobs) == [fake_logprobs(token, top=4, vocab_size=size) for token in output.token_ids]


async def test_what_is_not_wanted_is_not_told() -> None:
    generate = pb.Generate(handle=1, prompt_ids=[300, 301], sampling=pb.SamplingParams(max_tokens=9))
    events = await events_of(Rule(answer="hi"), generate)
    assert not any(event.prompt_logprobs for event in events)
    assert not any(output.logprobs for event in events for output in event.outputs)


async def test_a_step_is_in_the_counters_that_come_with_it() -> None:
    generate = pb.Generate(handle=1, prompt_ids=[300], sampling=pb.SamplingParams(max_tokens=9))
    ticks = await ticks_of(Rule(tokens=[300, 301]), generate)
    steps = 0
    for tick in ticks:
        steps += tick.HasField("step")
        assert (tick.stats.values["steps"], tick.stats.values["decode_steps"]) == (steps, steps)
    assert steps > 0
    assert ticks[-1].stats.values["decode_tokens"] == sum(tick.step.tokens for tick in ticks) == 3
