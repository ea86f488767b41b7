"""The Encode stream over real gRPC, before a stub tower and a real inbox in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common import rpc
from common.pb import common_pb2, embedding_pb2, encode_pb2_grpc
from common.transport.local import LocalHub, LocalReceiver, LocalSender
from common.transport.senders import Senders
from encode_server.config import LevelShipping
from encode_server.engine import EncodeEngine
from encode_server.metrics import EncodeMetrics
from encode_server.service import EncodeService
from encode_server.shipper import Shipper
from tests.encode_client import Arrivals, EncodeClient
from tests.encode_stubs import (
    HIDDEN,
    LEVELS,
    POISON,
    UNREADABLE,
    WAIT,
    StubProcessor,
    StubTower,
    embedding,
    layout,
    make_engine,
    media,
)

FINGERPRINT = b"f" * 32


class Rig:
    def __init__(self) -> None:
        self.tower, self.processor, self.metrics = StubTower(), StubProcessor(), EncodeMetrics()
        self.engine: EncodeEngine
        self.arrivals = Arrivals()

    def client(self) -> EncodeClient:
        return EncodeClient(self.channel, FINGERPRINT)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def idle(self) -> None:
        """Waits until the server holds nothing for any stream."""
        async with asyncio.timeout(WAIT):
            while (
                self.value("epd_cache_pins", cache="embeddings")
                or self.engine.load().running
                or self.engine.load().waiting
            ):
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(*, levels: LevelShipping = "auto", max_item_bytes: int = 1 << 16, **sizes: int) -> AsyncIterator[Rig]:
    rig, hub = Rig(), LocalHub()
    rig.engine = make_engine(rig.tower, rig.processor, rig.metrics, **sizes)
    await rig.engine.start()
    receiver = LocalReceiver(sink=rig.arrivals.inbox, hub=hub)
    await receiver.start()
    rig.arrivals.endpoints.append(receiver.endpoint)
    shipper = Shipper(rig.engine, Senders({embedding_pb2.LOCAL: LocalSender(hub=hub)}), rig.metrics, levels=levels)
    info = common_pb2.ModelInfo(fingerprint=FINGERPRINT, hidden=HIDDEN, levels=LEVELS)
    service = EncodeService(
        rig.engine, shipper, rig.metrics, info=info, boot_id=b"b" * 16, max_item_bytes=max_item_bytes
    )
    server = rpc.server()
    encode_pb2_grpc.add_EncodeServiceServicer_to_server(service, server)
    port = rpc.add_port(server, "127.0.0.1:0")
    await server.start()
    try:
        async with rpc.channel(f"127.0.0.1:{port}") as rig.channel:
            yield rig
    finally:
        rig.tower.gate.set()
        rig.tower.level_gate.set()
        rig.processor.gate.set()
        await server.stop(grace=None)
        await rig.engine.stop()


async def test_media_in_metadata_out_one_shipment_for_each_grant() -> None:
    async with running() as rig:
        client = rig.client()
        metadata = await client.begin([media(5.0, grid=(2, 4, 4))])
        assert (metadata.grid.t, metadata.grid.h, metadata.grid.w, metadata.rows) == (2, 4, 4, 8)
        for _ in range(2):
            grant = rig.arrivals.grant(layout(8))
            await client.grant(grant)
            shipped = (await client.event("shipped")).shipped
            assert shipped.grant_id == grant.id
            assert (shipped.bytes, shipped.transport) == (layout(8).total_bytes, embedding_pb2.LOCAL)
            assert {time.stage for time in shipped.times} == {"preprocess", "vision", "transfer"}
            assert await rig.arrivals.embedding(grant) == embedding(5.0, 8)
        await client.half_close()
        await client.ended()
        assert rig.value("epd_encode_items_total") == 1
        assert rig.value("epd_transfer_bytes_total", transport="local") == 2 * layout(8).total_bytes
        assert rig.value("epd_requests_finished_total") == 1


async def test_a_cached_item_needs_no_media_and_costs_only_its_transfer() -> None:
    async with running() as rig:
        first = rig.client()
        await first.begin([media(5.0)])
        grant = rig.arrivals.grant(layout(4))
        await first.grant(grant)
        await first.event("shipped")
        await first.half_close()
        await first.ended()

        second = rig.client()
        await second.open([media(5.0)])
        assert not (await second.event("accepted")).accepted.send_media
        await second.event("metadata")
        grant = rig.arrivals.grant(layout(4))
        await second.grant(grant)
        shipped = (await second.event("shipped")).shipped
        assert [time.stage for time in shipped.times] == ["transfer"]
        assert await rig.arrivals.embedding(grant) == embedding(5.0, 4)
        assert rig.value("epd_encodes_total") == 1


async def test_metadata_does_not_wait_for_the_queue() -> None:
    async with running(max_batch_patches=16) as rig:
        rig.tower.gate.clear()
        rig.processor.gate.clear()
        clients = [rig.client() for _ in range(6)]
        for value, client in enumerate(clients):
            assert (await client.begin([media(float(value))])).rows == 4
        # the first of them were begun, the others wait
        assert clients[-1].loads[-1].waiting + clients[-1].loads[-1].running == 6
        assert clients[-1].loads[-1].queue_seconds > 0


async def test_what_was_granted_before_the_half_close_is_still_shipped() -> None:
    async with running() as rig:
        rig.tower.gate.clear()
        client = rig.client()
        await client.begin([media(5.0)])
        grant = rig.arrivals.grant(layout(4))
        await client.grant(grant)
        await client.half_close()
        rig.tower.gate.set()
        await client.event("shipped")
        await client.ended()
        assert await rig.arrivals.embedding(grant) == embedding(5.0, 4)


async def test_a_cancelled_stream_leaves_nothing_behind() -> None:
    async with running() as rig:
        rig.tower.gate.clear()
        blocker, doomed = rig.client(), rig.client()
        await blocker.begin([media(0.0)])
        assert await asyncio.to_thread(rig.tower.entered.acquire, timeout=WAIT)
        await doomed.begin([media(1.0)])
        await doomed.grant(rig.arrivals.grant(layout(4)))
        doomed.cancel()
        async with asyncio.timeout(WAIT):
            while rig.engine.load().running > 1 or rig.value("epd_requests_aborted_total") < 1:
                await asyncio.sleep(0.001)
        rig.tower.gate.set()
        blocker.cancel()
        await rig.idle()
        assert [value for batch in rig.tower.values for value in batch] == [0.0]


async def test_of_two_streams_the_remaining_one_gets_the_item() -> None:
    async with running() as rig:
        rig.tower.gate.clear()
        first, second = rig.client(), rig.client()
        await first.begin([media(1.0)])
        await second.begin([media(1.0)])
        first.cancel()
        rig.tower.gate.set()
        grant = rig.arrivals.grant(layout(4))
        await second.grant(grant)
        await second.event("shipped")
        assert await rig.arrivals.embedding(grant) == embedding(1.0, 4)


async def test_a_probe_gets_metadata_and_nothing_is_encoded() -> None:
    async with running() as rig:
        probe = rig.client()
        assert (await probe.begin([media(1.0)], is_probe=True)).rows == 4
        await probe.ended()
        assert rig.engine.load().waiting == 0
        working, known = rig.client(), rig.client()
        await working.begin([media(1.0)])
        await known.open([media(1.0)], is_probe=True)
        assert not (await known.event("accepted")).accepted.send_media
        await known.event("metadata")
        await known.ended()


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        ({"fingerprint": b"x" * 32}, common_pb2.Error.MODEL_MISMATCH, "another model"),
        ({"key": b"short"}, common_pb2.Error.INVALID_REQUEST, "key has 5 bytes"),
        ({"media_digest": b"short"}, common_pb2.Error.INVALID_REQUEST, "media_digest has 5 bytes"),
        ({"kind": 9}, common_pb2.Error.INVALID_REQUEST, "no such kind"),
        ({"sizes": [1]}, common_pb2.Error.INVALID_REQUEST, "2 parts"),
        ({"deadline_seconds": -1.0}, common_pb2.Error.INVALID_REQUEST, "-1.0 seconds"),
        (
            {"options": common_pb2.MediaOptions(min_pixels=0)},
            common_pb2.Error.INVALID_REQUEST,
            "min_pixels must be at least 1",
        ),
        (
            # field 63 as a newer version might have it
            {"options": common_pb2.MediaOptions.FromString(b"\xf8\x03\x01")},
            common_pb2.Error.INVALID_REQUEST,
            "does not know",
        ),
    ],
)
async def test_what_can_not_be_honoured_is_refused(overrides: dict[str, object], code: int, words: str) -> None:
    async with running() as rig:
        client = rig.client()
        await client.open([media(1.0)], **overrides)  # type: ignore[arg-type]
        error = await client.error()
        assert error.code == code
        assert words in error.message
        assert (await rig.client().begin([media(1.0)])).rows == 4


async def test_an_item_over_the_size_limit_is_refused_before_it_is_sent() -> None:
    async with running(max_item_bytes=10) as rig:
        client = rig.client()
        await client.open([b"0" * 11])
        error = await client.error()
        assert error.code == common_pb2.Error.BAD_MEDIA
        assert "limit of 10" in error.message


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"1,4,4,2.0", "announced digest"),
        (b"1,4,4,1.0 and more", "more media bytes"),
        (b"1,4,4", "ended before"),
    ],
)
async def test_media_that_are_not_those_announced_are_refused(sent: bytes, words: str) -> None:
    async with running() as rig:
        client = rig.client()
        await client.open([media(1.0)])
        await client.event("accepted")
        await client.send([sent])
        await client.half_close()
        error = await client.error()
        assert error.code == common_pb2.Error.INVALID_REQUEST
        assert words in error.message
        await rig.idle()


async def test_another_streams_broken_upload_is_taken_over() -> None:
    async with running() as rig:
        first, second = rig.client(), rig.client()
        await first.open([media(1.0)])
        await first.event("accepted")
        await second.open([media(1.0)])
        await first.send([media(2.0)])
        await first.error()
        assert (await second.event("accepted")).accepted.send_media
        await second.send([media(1.0)])
        await second.event("metadata")


async def test_bad_media_fail_each_stream_that_wants_them() -> None:
    async with running() as rig:
        client = rig.client()
        await client.open([media(UNREADABLE)])
        await client.event("accepted")
        await client.send([media(UNREADABLE)])
        assert (await client.error()).code == common_pb2.Error.BAD_MEDIA
        assert rig.value("epd_requests_failed_total", code="bad_media") == 1


async def test_an_item_that_fails_ends_the_stream_without_any_grant() -> None:
    async with running() as rig:
        client = rig.client()
        await client.begin([media(POISON)])
        assert (await client.error()).code == common_pb2.Error.INTERNAL


async def test_a_stream_has_to_begin_with_open_and_to_go_on_in_order() -> None:
    async with running() as rig:
        client = rig.client()
        await client.send([b"media"])
        assert (await client.error()).code == common_pb2.Error.INVALID_REQUEST
        client = rig.client()
        await client.half_close()
        assert (await client.error()).code == common_pb2.Error.INVALID_REQUEST
        client = rig.client()
        await client.begin([media(1.0)])
        await client.send([b"more"])
        assert "only grants" in (await client.error()).message


async def test_the_deadline_ends_the_stream() -> None:
    async with running() as rig:
        rig.tower.gate.clear()
        client = rig.client()
        await client.begin([media(1.0)], deadline_seconds=0.2)
        await client.grant(rig.arrivals.grant(layout(4)))
        assert (await client.error()).code == common_pb2.Error.DEADLINE_EXCEEDED


async def test_a_grant_for_another_layout_is_a_mismatch() -> None:
    async with running() as rig:
        client = rig.client()
        await client.begin([media(1.0)])
        await client.grant(rig.arrivals.grant(layout(5)))
        assert (await client.error()).code == common_pb2.Error.MODEL_MISMATCH


async def test_a_grant_that_can_not_be_used_is_told_and_the_item_ships_under_another() -> None:
    async with running() as rig:
        client = rig.client()
        await client.begin([media(1.0)])
        lost = rig.arrivals.grant(layout(4))
        rig.arrivals.inbox.revoke(lost.id)
        await client.grant(lost)
        failed = (await client.event("ship_failed")).ship_failed
        assert (failed.grant_id, failed.revoked) == (lost.id, True)
        good = rig.arrivals.grant(layout(4))
        await client.grant(good)
        await client.event("shipped")
        assert await rig.arrivals.embedding(good) == embedding(1.0, 4)
        assert rig.value("epd_ship_failures_total", revoked="true") == 1


async def test_when_draining_new_streams_are_refused_and_waiting_ones_handed_back() -> None:
    async with running(cache_rows=4) as rig:
        begun, waiting = rig.client(), rig.client()
        await begun.begin([media(1.0)])
        async with asyncio.timeout(WAIT):
            while not rig.value("epd_encode_items_total"):
                await asyncio.sleep(0.001)
        await waiting.begin([media(2.0)])
        draining = asyncio.create_task(rig.engine.drain(WAIT))
        assert (await waiting.error()).code == common_pb2.Error.MOVED
        refused = rig.client()
        await refused.open([media(3.0)])
        event = await refused.error()
        assert event.code == common_pb2.Error.UNAVAILABLE
        assert refused.loads[-1].draining
        grant = rig.arrivals.grant(layout(4))
        await begun.grant(grant)
        await begun.event("shipped")
        await begun.half_close()
        await begun.ended()
        await asyncio.wait_for(draining, WAIT)


@pytest.mark.parametrize(("levels", "is_early"), [("eager", True), ("whole", False)])
async def test_levels_are_shipped_as_they_are_made_or_with_the_whole(levels: LevelShipping, is_early: bool) -> None:
    async with running(levels=levels) as rig:
        rig.tower.level_gate.clear()
        client = rig.client()
        await client.begin([media(1.0)])
        grant = rig.arrivals.grant(layout(4))
        await client.grant(grant)
        start, size = layout(4).offset("deepstack.0"), layout(4).tensor_bytes
        expected = embedding(1.0, 4)[start : start + size]
        if is_early:  # the first level is there although the tower has not finished
            async with asyncio.timeout(WAIT):
                while rig.arrivals.so_far(grant)[start : start + size] != expected:
                    await asyncio.sleep(0.001)
        else:
            assert await asyncio.to_thread(rig.tower.entered.acquire, timeout=WAIT)
            await asyncio.sleep(0.02)
            assert rig.arrivals.so_far(grant) == bytes(layout(4).total_bytes)
        rig.tower.level_gate.set()
        await client.event("shipped")
        assert await rig.arrivals.embedding(grant) == embedding(1.0, 4)


async def test_the_server_tells_what_it_holds() -> None:
    async with running() as rig:
        stub = encode_pb2_grpc.EncodeServiceStub(rig.channel)
        assert (await stub.GetModelInfo(common_pb2.GetModelInfoRequest())).fingerprint == FINGERPRINT
        info = await stub.GetServerInfo(common_pb2.GetServerInfoRequest())
        assert info.boot_id == b"b" * 16
        assert not info.load.draining
