"""What a system with a real engine counts is what its answers say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from openai import OpenAI
from openai.types import CompletionUsage

import encode_server.metrics
import language_server.metrics
import router.metrics
from tests.integration.contract.asking import user
from tests.integration.contract.media import image_part, png
from tests.integration.system.small import small_system
from tests.serving import TIMEOUT, Served

TOKENS = 8
PICTURE = png(128, 128)
QUESTION = [image_part(PICTURE), {"type": "text", "text": "What is this, and what is it not? " * 8}]
TEXT = "Nothing of this text is in any cache. " * 8
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
HELD = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}

STAGES = {
    "router": router.metrics.STAGES,
    "encode": encode_server.metrics.STAGES,
    "language": language_server.metrics.STAGES,
}
Samples = Mapping[str, float]


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with small_system(tmp_path_factory.mktemp("metrics")) as served:
        yield served


def ask(client: OpenAI, content: Any, **fields: Any) -> CompletionUsage:
    fields = {"max_tokens": TOKENS, "extra_body": {"ignore_eos": True}, **fields}
    answer = client.chat.completions.create(model="demo", messages=user(content), **fields)
    assert answer.usage is not None
    return answer.usage


def settled(served: Served, role: str, name: str, value: float) -> Samples:
    """A role's metrics once `name` has `value`: what ends a request is counted after its answer was sent."""
    deadline = time.monotonic() + TIMEOUT
    while (samples := served.metrics(role))[name] != value:
        assert time.monotonic() < deadline, f"{name} is {samples[name]}"
        time.sleep(0.02)
    return samples


def cache(samples: Samples, name: str) -> tuple[float, float]:
    """Hits and misses."""
    hits, misses = (samples[f'epd_cache_{what}_total{{cache="{name}"}}'] for what in ("hits", "misses"))
    return hits, misses


def test_counters_are_what_answers_say(served: Served, client: OpenAI) -> None:
    first, second = ask(client, QUESTION), ask(client, QUESTION)
    choices = 2
    language = settled(served, "language", "epd_requests_finished_total", choices)
    assert second.prompt_tokens_details is not None
    cached = second.prompt_tokens_details.cached_tokens
    assert cached
    assert language["epd_prefix_cached_tokens_total"] == cached
    assert language["epd_prefill_tokens_total"] == 2 * first.prompt_tokens - cached
    assert (cache(language, "prefix"), cache(language, "inbox"), cache(language, "grammar")) == ((1, 1), (1, 1), (0, 0))
    encode = settled(served, "encode", "epd_requests_finished_total", 1)
    assert encode["epd_encodes_total"] == encode["epd_encode_batch_seconds_count"] == 1
    assert encode["epd_encode_items_total"] == encode["epd_encode_batch_items_sum"] == 1
    assert encode["epd_encode_batch_seconds_sum"] > 0
    assert cache(encode, "embeddings") == (0, 1)
    shipped = encode['epd_transfer_bytes_total{transport="zmq"}']
    assert shipped == language['epd_transfer_bytes_total{transport="zmq"}'] > 0
    assert shipped == encode['epd_cache_bytes{cache="embeddings"}'] == language['epd_cache_bytes{cache="inbox"}']

    two, again = ask(client, TEXT, n=2), ask(client, TEXT)
    held = [ask(client, "hi", response_format=HELD, max_tokens=200, extra_body={}) for _ in range(2)]
    usages = [first, second, two, again, *held]
    choices = 7
    output = sum(usage.completion_tokens for usage in usages)
    prompts = sum(usage.prompt_tokens for usage in usages)
    language = settled(served, "language", "epd_requests_finished_total", choices)
    computed = language["epd_prefill_tokens_total"] + language["epd_prefix_cached_tokens_total"]
    assert computed == prompts + two.prompt_tokens, "of two choices each has its prompt"
    assert language["epd_decode_tokens_total"] == output - choices, "the first token of each is prefill's"
    assert language["epd_engine_steps_total"] == language["epd_step_seconds_count"] == language["epd_step_tokens_count"]
    assert language["epd_step_tokens_sum"] == (
        language["epd_prefill_tokens_total"] + language["epd_decode_tokens_total"]
    )
    assert sum(cache(language, "prefix")) == choices
    assert cache(language, "grammar") == (1, 1)
    assert language["epd_grammars_compiled_total"] == language['epd_cache_entries{cache="grammar"}'] == 1
    assert language['epd_cache_bytes{cache="grammar"}'] > 0
    for role, stages in STAGES.items():
        samples = served.metrics(role)
        unmeasured = [stage for stage in stages if not samples[f'epd_stage_seconds_count{{stage="{stage}"}}']]
        assert not unmeasured, role
    capacity = language['epd_cache_capacity_bytes{cache="prefix"}']
    assert 0 < capacity <= 64 << 20
    blocks = language["epd_kv_blocks"]
    assert blocks > language['epd_cache_entries{cache="prefix"}'] > 0
    assert (
        capacity / blocks == language['epd_cache_bytes{cache="prefix"}'] / language['epd_cache_entries{cache="prefix"}']
    )
    assert language["epd_kv_blocks_used"] == 0

    router = settled(served, "router", "epd_requests_finished_total", len(usages))
    assert router["epd_prompt_tokens_total"] == prompts
    assert router["epd_output_tokens_total"] == output
    assert router["epd_inter_token_seconds_count"] == output - choices
    assert router["epd_time_to_first_token_seconds_count"] == len(usages)
    assert cache(router, "grid") == (1, 1)
    assert router["epd_media_bytes"] == 0


def test_media_are_held_as_long_as_their_request(served: Served, client: OpenAI) -> None:
    with client.chat.completions.create(
        model="demo", messages=user(QUESTION), max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
    ) as chunks:
        next(chunks)
        assert served.metrics("router")["epd_media_bytes"] >= len(PICTURE)
    settled(served, "router", "epd_media_bytes", 0)
