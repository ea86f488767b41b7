from __future__ import annotations

from collections.abc import Sequence

import pytest

from common.embeddings import EmbeddingLayout
from common.errors import ModelMismatchError
from common.pb import common_pb2
from common.pb import embedding_pb2 as pb
from common.transport.base import Delivery, Outgoing, ShipError
from common.transport.senders import Senders, TransportChoice, network_senders
from tests.unit.common.transport.kit import LAYOUT, Item, Link, Side, connect

ZMQ = pb.Endpoint(transport=pb.ZMQ, address="127.0.0.1:1")
GRPC = pb.Endpoint(transport=pb.GRPC, address="127.0.0.1:2")


class Recorder:
    """A sender that only notes where it was asked to send."""

    def __init__(self, transport: pb.Transport) -> None:
        self.transport = transport
        self.endpoints: list[pb.Endpoint] = []
        self.closed = False

    async def ship(self, grant: pb.Grant, endpoint: pb.Endpoint, item: Outgoing) -> Delivery:
        self.endpoints.append(endpoint)
        return Delivery(payload_bytes=item.layout.total_bytes, seconds=0.0, transport=self.transport)

    async def close(self) -> None:
        self.closed = True


def grant(endpoints: Sequence[pb.Endpoint], layout: EmbeddingLayout = LAYOUT) -> pb.Grant:
    return pb.Grant(id=b"g" * 16, layout=layout.to_wire(), endpoints=endpoints)


def recorders(*transports: pb.Transport) -> dict[pb.Transport, Recorder]:
    return {transport: Recorder(transport) for transport in transports}


@pytest.mark.parametrize("endpoints", [[ZMQ, GRPC], [GRPC, ZMQ]])
async def test_the_language_server_has_the_choice_among_several(endpoints: list[pb.Endpoint]) -> None:
    senders = recorders(pb.ZMQ, pb.GRPC)
    delivery = await Senders(senders).ship(grant(endpoints), Item())
    assert delivery.transport == endpoints[0].transport
    assert senders[endpoints[0].transport].endpoints == [endpoints[0]]


@pytest.mark.parametrize("endpoints", [[ZMQ, GRPC], [GRPC, ZMQ]])
@pytest.mark.parametrize("transport", [pb.ZMQ, pb.GRPC])
async def test_the_one_that_is_configured_is_used_wherever_it_stands(
    endpoints: list[pb.Endpoint], transport: pb.Transport
) -> None:
    assert (await Senders(recorders(transport)).ship(grant(endpoints), Item())).transport == transport


@pytest.mark.parametrize(
    ("transport", "endpoints", "words"),
    [
        (pb.ZMQ, [GRPC], "offers grpc, this encode server uses zmq"),
        (pb.GRPC, [ZMQ], "offers zmq, this encode server uses grpc"),
        (pb.ZMQ, [], "offers nothing, this encode server uses zmq"),
    ],
)
async def test_a_transport_never_takes_the_place_of_another(
    transport: pb.Transport, endpoints: list[pb.Endpoint], words: str
) -> None:
    senders = recorders(transport)
    with pytest.raises(ShipError, match=words) as caught:
        await Senders(senders).ship(grant(endpoints), Item())
    assert not caught.value.revoked
    assert senders[transport].endpoints == []


@pytest.mark.parametrize(
    "other",
    [
        EmbeddingLayout(rows=8, hidden=24, levels=3, dtype=common_pb2.BFLOAT16),
        EmbeddingLayout(rows=7, hidden=48, levels=3, dtype=common_pb2.BFLOAT16),
        EmbeddingLayout(rows=7, hidden=24, levels=2, dtype=common_pb2.BFLOAT16),
        EmbeddingLayout(rows=7, hidden=24, levels=3, dtype=common_pb2.FLOAT32),
    ],
)
async def test_another_layout_is_a_mismatch_and_nothing_is_cast(other: EmbeddingLayout) -> None:
    senders = recorders(pb.ZMQ)
    with pytest.raises(ModelMismatchError, match="expects"):
        await Senders(senders).ship(grant([ZMQ], other), Item())
    assert senders[pb.ZMQ].endpoints == []


async def test_closing_closes_all() -> None:
    senders = recorders(pb.ZMQ, pb.GRPC)
    await Senders(senders).close()
    assert all(sender.closed for sender in senders.values())


@pytest.mark.parametrize(("choice", "carrier"), [("zmq", "zmq"), ("grpc", "grpc"), ("auto", "grpc")])
async def test_on_the_real_wire_the_configured_one_carries_every_byte(choice: TransportChoice, carrier: str) -> None:
    """One inbox that is reachable over both; the bytes are counted where they arrive."""
    async with connect("grpc") as over_grpc, connect("zmq") as over_zmq:
        links: dict[str, Link] = {"grpc": over_grpc, "zmq": over_zmq}
        granted = {name: link.side.grant() for name, link in links.items()}
        endpoints = [over_grpc.endpoint, over_zmq.endpoint]
        senders = network_senders(choice)
        chosen = granted[carrier]
        offer = pb.Grant(id=chosen.id, layout=chosen.layout, boot_id=chosen.boot_id, endpoints=endpoints)
        delivery = await senders.ship(offer, Item())
        await senders.close()
        assert pb.Transport.Name(delivery.transport).lower() == carrier
        for name, link in links.items():
            expected = LAYOUT.total_bytes if name == carrier else 0.0
            assert counted(link.side) == {carrier: expected} if expected else not counted(link.side)


def counted(side: Side) -> dict[str, float]:
    """Bytes by transport, as the inbox counted them."""
    bytes_by = {name: side.count("epd_transfer_bytes_total", transport=name) for name in ("zmq", "grpc", "local")}
    return {name: count for name, count in bytes_by.items() if count}
