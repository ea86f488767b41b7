"""When a growing item is worth shipping: with `auto`, where the link is slower than the tower."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import ModelMismatchError
from common.pb import common_pb2, embedding_pb2
from common.transport.base import Delivery, Outgoing
from common.transport.senders import Senders
from encode_server.engine import EncodeEngine
from encode_server.items import Claim, Stage
from encode_server.metrics import EncodeMetrics
from encode_server.shipper import Shipper
from tests.encode_stubs import WAIT, StubProcessor, StubTower, layout, make_engine, media, opening

GRID = (1, 64, 64)
ROWS = 1024  # of 128 bytes: large enough to be a measurement


class StubSender:
    """A link of a given pace; notes at which stage of the item a shipment began."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.started: asyncio.Queue[Stage] = asyncio.Queue()

    async def ship(self, grant: embedding_pb2.Grant, endpoint: embedding_pb2.Endpoint, item: Outgoing) -> Delivery:
        self.started.put_nowait(item.stage)  # type: ignore[attr-defined]
        for tensor in item.order:
            await item.wait(tensor)
        return Delivery(payload_bytes=item.layout.total_bytes, seconds=self.seconds, transport=embedding_pb2.LOCAL)

    async def close(self) -> None: ...


async def join(engine: EncodeEngine, value: float) -> Claim:
    data = media(value, grid=GRID)
    claim = engine.join(opening(data))
    assert await engine.has_to_upload(claim)
    await engine.deliver(claim, [data])
    return claim


def grant(rows: int = ROWS) -> embedding_pb2.Grant:
    endpoint = embedding_pb2.Endpoint(transport=embedding_pb2.LOCAL, address="language")
    return embedding_pb2.Grant(id=b"g" * 16, layout=layout(rows).to_wire(), endpoints=[endpoint])


@pytest.mark.parametrize(("link_seconds", "is_early"), [(1000.0, True), (0.0, False)])
async def test_auto_ships_early_only_where_the_link_was_measured_to_be_slower(
    link_seconds: float, is_early: bool
) -> None:
    tower, sender, metrics = StubTower(), StubSender(), EncodeMetrics()
    engine = make_engine(tower, StubProcessor(), metrics, cache_rows=4 * ROWS, max_batch_patches=1 << 14)
    await engine.start()
    try:
        shipper = Shipper(engine, Senders({embedding_pb2.LOCAL: sender}), metrics, levels="auto")
        sender.seconds = link_seconds
        first = await shipper.ship(await join(engine, 1.0), grant())
        assert await sender.started.get() is Stage.FINISHED  # of an unknown link the best is assumed
        assert {time.stage for time in first.shipped.times} == {"preprocess", "vision", "transfer"}

        tower.gate.clear()
        shipping = asyncio.create_task(shipper.ship(await join(engine, 2.0), grant()))
        assert await asyncio.to_thread(tower.entered.acquire, timeout=WAIT)
        if is_early:
            assert await asyncio.wait_for(sender.started.get(), WAIT) is not Stage.FINISHED
        tower.gate.set()
        await asyncio.wait_for(shipping, WAIT)
        if not is_early:
            assert await sender.started.get() is Stage.FINISHED
    finally:
        tower.gate.set()
        await engine.stop()


async def test_a_layout_that_makes_no_sense_is_a_mismatch() -> None:
    metrics = EncodeMetrics()
    engine = make_engine(StubTower(), StubProcessor(), metrics, cache_rows=4 * ROWS)
    await engine.start()
    try:
        shipper = Shipper(engine, Senders({}), metrics, levels="whole")
        claim, nonsense = await join(engine, 1.0), grant()
        nonsense.layout.dtype = common_pb2.DTYPE_UNSPECIFIED
        with pytest.raises(ModelMismatchError):
            await shipper.ship(claim, nonsense)
    finally:
        await engine.stop()
