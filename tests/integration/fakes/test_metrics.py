"""What the fakes count: the same metrics as real servers, and of a request with images all of its stages."""

from __future__ import annotations

import pytest

from common.pb import engine_pb2
from language_server.metrics import LanguageMetrics
from tests.engine_values import shown_values
from tests.integration.fakes.conftest import EncodeServers, LanguageServers
from tests.integration.fakes.stub_router import image_of
from tests.integration.fakes.test_fakes import PAD, metric, router
from tests.unit.deploy.test_metrics_page import documented, real


async def test_the_fakes_have_the_metrics_of_the_page(
    encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    async with encode_server() as encode, language_server() as language:
        assert real(encode.metrics.registry) == documented("Encode server")
        assert real(language.metrics.registry) == documented("Language server")


async def test_the_stages_of_a_request(encode_server: EncodeServers, language_server: LanguageServers) -> None:
    async with encode_server() as encode, language_server() as language, router(encode, language).session() as session:
        await session.ask([5, image_of(64, 64), 6, image_of(64, 64, 1)], pad=PAD)
        await session.ask([5], pad=PAD)
        counts = {
            stage: metric(encode, "epd_stage_seconds_count", stage=stage)
            for stage in ("queue", "vision", "transfer", "receive", "header")
        }
        # the stub of a router probes each image before it has it encoded
        assert counts == {"queue": 2, "vision": 2, "transfer": 2, "receive": 4, "header": 4}
        counts = {
            stage: metric(language, "epd_stage_seconds_count", stage=stage)
            for stage in ("queue", "inbox", "prefill", "decode")
        }
        assert counts == {"queue": 2, "inbox": 1, "prefill": 2, "decode": 2}
        assert metric(language, "epd_step_tokens_sum") == metric(language, "epd_decode_tokens_total") > 0
        assert metric(encode, "epd_cache_entries", cache="embeddings") == 2
        assert metric(encode, "epd_cache_bytes", cache="embeddings") == metric(
            language, "epd_cache_bytes", cache="inbox"
        )


async def test_items_that_wait_for_room_are_counted(
    encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    room = 250 * 192 * 4 * 2  # for one of three
    async with (
        encode_server() as encode,
        language_server(inbox_bytes=room) as language,
        router(encode, language).session() as session,
    ):
        await session.ask([5, *(image_of(640, 480, seed) for seed in range(3))], pad=PAD)
        assert metric(language, "epd_grant_stalls_total") >= 2
        assert metric(language, "epd_grant_stall_seconds_total") > 0
        assert metric(language, "epd_grants_stalled") == 0


async def test_metrics_show_all_that_a_fake_engine_counts(
    encode_server: EncodeServers, language_server: LanguageServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a name that metrics don't look for, a value would stay zero there for ever."""
    told: set[str] = set()
    update = LanguageMetrics.update

    def listen(metrics: LanguageMetrics, events: engine_pb2.EngineEvents) -> None:
        told.update(events.stats.values)
        update(metrics, events)

    monkeypatch.setattr(LanguageMetrics, "update", listen)
    room = 250 * 192 * 4 * 2  # for one of two
    async with (
        encode_server() as encode,
        language_server(inbox_bytes=room) as language,
        router(encode, language).session() as session,
    ):
        for seed in (0, 0, 1):
            await session.ask([5, image_of(640, 480, seed)], pad=PAD)
        assert metric(language, "epd_cache_hits_total", cache="inbox") == 1
        assert metric(language, "epd_cache_evictions_total", cache="inbox") == 1
    assert told - shown_values() == set()
    assert told >= {"accepted", "finished", "running", "steps", "decode_tokens", "inbox_hits", "inbox_evictions"}
