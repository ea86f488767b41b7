"""Which of a grant's endpoints an encode server uses. A transport never takes the place of another unasked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from common.embeddings import EmbeddingLayout
from common.errors import ModelMismatchError
from common.pb import common_pb2
from common.pb import embedding_pb2 as pb
from common.transport.base import Delivery, Outgoing, Sender, SendTimeouts, ShipError
from common.transport.frame import Framer, cut
from common.transport.grpc import GrpcSender
from common.transport.zmq import ZmqSender

TransportChoice = Literal["auto", "zmq", "grpc"]


class Senders:
    """The senders of an encode server by transport.

    An endpoint is used if there is a sender of exactly its transport; with several the first in the grant's order,
    which is the language server's preference. `Delivery.transport` says what carried an item.
    """

    def __init__(self, senders: Mapping[pb.Transport, Sender]) -> None:
        self._senders = dict(senders)

    async def ship(self, grant: pb.Grant, item: Outgoing) -> Delivery:
        """Sends `item` under `grant`.

        Raises:
            ShipError: see `Sender.ship`; or no endpoint of the grant is of a transport that is in use here.
            ModelMismatchError: the language server expects another shape or dtype than the item has.
            EPDError: the item itself failed.
        """
        layout = item.layout
        if layout != EmbeddingLayout.from_wire(grant.layout):
            raise ModelMismatchError(
                f"the item is {_describe(layout.to_wire())}, the language server expects {_describe(grant.layout)}"
            )
        for endpoint in grant.endpoints:
            sender = self._senders.get(endpoint.transport)
            if sender is not None:
                return await sender.ship(grant, endpoint, item)
        raise ShipError(
            f"the language server offers {_names(endpoint.transport for endpoint in grant.endpoints)}, "
            f"this encode server uses {_names(self._senders)}",
            revoked=False,
        )

    async def close(self) -> None:
        for sender in self._senders.values():
            await sender.close()


def network_senders(choice: TransportChoice, *, timeouts: SendTimeouts | None = None, framer: Framer = cut) -> Senders:
    """The senders that `--transport` asks for; "auto" leaves the choice to each language server."""
    senders: dict[pb.Transport, Sender] = {}
    if choice in ("auto", "zmq"):
        senders[pb.ZMQ] = ZmqSender(timeouts=timeouts, framer=framer)
    if choice in ("auto", "grpc"):
        senders[pb.GRPC] = GrpcSender(timeouts=timeouts, framer=framer)
    return Senders(senders)


def _names(transports: Iterable[pb.Transport]) -> str:
    return ", ".join(pb.Transport.Name(transport).lower() for transport in transports) or "nothing"


def _describe(layout: pb.EmbeddingLayout) -> str:
    dtype = common_pb2.DType.Name(layout.dtype).lower()
    return f"[{layout.rows}, {layout.hidden}] with {layout.levels} deepstack levels in {dtype}"
