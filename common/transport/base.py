"""The seam of the data plane: who sends, who receives, and what lies between.

    encode server                                      language server
    Outgoing -> Sender.ship(grant) -> frames ->  Receiver -> FrameSink.begin / commit -> Receipt -> back to ship()

A `Sender` and a `Receiver` exist for each transport; `Outgoing` is the encode server's finished (or growing) item,
`FrameSink` the language server's inbox. Every service test can run over the in-process transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from common.embeddings import EmbeddingLayout
from common.pb import embedding_pb2 as pb


class Outgoing(Protocol):
    """An item's embedding in host memory, laid out as `EmbeddingLayout` says; it may still be in the making."""

    @property
    def layout(self) -> EmbeddingLayout: ...

    @property
    def data(self) -> memoryview:
        """`layout.total_bytes` bytes; stays valid and unchanged until `Sender.ship` has returned."""

    @property
    def order(self) -> tuple[str, ...]:
        """Names of the tensors in the order in which they become complete."""

    async def wait(self, tensor: str) -> None:
        """Returns once `tensor` is complete. Raises EPDError when it never will be."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a shipment cost."""

    payload_bytes: int
    seconds: float
    transport: pb.Transport


@dataclass(frozen=True, kw_only=True)
class SendTimeouts:
    """Seconds after which a sender gives a language server up."""

    connect: float = 5.0
    stall: float = 30.0  # frames are waiting and none has left
    receipt: float = 30.0  # every frame has left and no receipt came
    idle: float = 60.0  # without shipments: the connection is closed, and made anew when needed


class ShipError(Exception):
    """The item could not be handed over under this grant; the item itself is fine."""

    def __init__(self, message: str, *, revoked: bool) -> None:
        super().__init__(message)
        self.revoked = revoked  # the language server took the grant back, or never knew it


class Sender(Protocol):
    """The encode server's end of one transport, for all language servers."""

    async def ship(self, grant: pb.Grant, endpoint: pb.Endpoint, item: Outgoing) -> Delivery:
        """Sends the whole item and waits for the receipt. Cancelling it stops at the next frame.

        Raises:
            ShipError: out of reach, disconnected, timed out without progress, or revoked.
            EPDError: the item itself failed (from `item.wait`).
        """

    async def close(self) -> None: ...


# Why a frame is not taken: the labels of epd_frames_rejected_total.
RejectReason = Literal[
    "malformed",  # not a frame at all
    "unknown_grant",  # never given, revoked, or complete already
    "protocol",
    "tensor",
    "dtype",
    "shape",
    "range",  # empty, over 8 MiB, or past the tensor's end
    "duplicate",  # its bytes are all held already; harmless
    "overlap",  # some of its bytes are held already
    "concurrent",  # two writers under one grant
    "length",  # the payload is not as long as its header says
    "checksum",
    "incomplete",  # the writer said that it was done and was not
]


class FrameRejected(Exception):
    """A frame that is not taken; `receipt` is for its sender when the grant is void or was never there."""

    def __init__(self, reason: RejectReason, receipt: pb.Receipt | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.receipt = receipt


class FrameSink(Protocol):
    """Where receivers put frames. Called from any thread; for one grant by one receiver at a time."""

    def begin(self, sealed: pb.SealedHeader) -> tuple[pb.FrameHeader, memoryview]:
        """Checks a header against its grant before anything is copied; `commit` or `reject` has to follow.

        Returns:
            The header, and the `header.length` bytes that the payload has to be written to.

        Raises:
            FrameRejected: unknown grant, other protocol, tensor, dtype, shape or range than granted, duplicate.
        """

    def commit(self, sealed: pb.SealedHeader, header: pb.FrameHeader, transport: pb.Transport) -> pb.Receipt | None:
        """Verifies the checksum over what `begin`'s memory now holds. A receipt when this made the item complete.

        Raises:
            FrameRejected: the checksum is wrong; its receipt says that the grant is void.
        """

    def reject(self, header: pb.FrameHeader, reason: RejectReason) -> pb.Receipt:
        """Voids the grant after `begin`: the payload did not come, or not in its announced length."""

    def void(self, grant_id: bytes, reason: RejectReason) -> pb.Receipt:
        """Voids a live grant outside `begin` and `commit`; says UNKNOWN_GRANT of any other."""

    def refuse(self, reason: RejectReason) -> None:
        """Counts what was too broken to be given to `begin`."""


class Receiver(Protocol):
    """The language server's end of one transport. `endpoint` is valid after `start`."""

    async def start(self) -> None: ...

    @property
    def endpoint(self) -> pb.Endpoint:
        """What grants advertise."""

    @property
    def healthy(self) -> bool:
        """False once it can take no frame any more."""

    def release(self, receipt: pb.Receipt) -> None:
        """Sends `receipt` to the writer of a grant that the server itself took back, if that writer is known.

        Called from any thread, for every closed grant: this is also what makes the receiver forget the grant.
        """

    async def stop(self) -> None: ...
