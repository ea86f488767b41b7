"""Hands finished, or growing, items to language servers, and decides when a growing one is worth the trouble."""

from __future__ import annotations

import time

from common.embeddings import EmbeddingLayout
from common.errors import ModelMismatchError
from common.pb import common_pb2, encode_pb2
from common.pb import embedding_pb2 as pb
from common.stages import TimedStage
from common.transport.base import Delivery, ShipError
from common.transport.senders import Senders
from encode_server.config import LevelShipping
from encode_server.engine import EncodeEngine
from encode_server.items import Claim, Item, Stage
from encode_server.metrics import EncodeMetrics

_SMOOTHING = 0.3  # weight of the newest shipment in a link's measured speed
_MIN_MEASURED_BYTES = 1 << 16  # smaller shipments tell the link's latency, not its speed
_TOLD = ("preprocess", "vision")  # stages that routers hear of


class Shipper:
    """One for each server.

    Args:
        levels: send a deepstack level as soon as it is made, or whole items only; auto: as soon as it is made where
            the link to that language server takes longer for the item than the vision tower does, for only there does
            sending earlier mean arriving earlier.
    """

    def __init__(
        self, engine: EncodeEngine, senders: Senders, metrics: EncodeMetrics, *, levels: LevelShipping
    ) -> None:
        self._engine = engine
        self._senders = senders
        self._metrics = metrics
        self._levels = levels
        self._links: dict[str, float] = {}  # seconds a byte, by the address of the language server

    async def ship(self, claim: Claim, grant: pb.Grant) -> encode_pb2.EncodeEvent:
        """Ships once, as soon as there is something to ship.

        Returns:
            `shipped`, or `ship_failed` if this grant could not be used.

        Raises:
            ModelMismatchError: the language server expects another layout.
            EPDError: the item failed.
        """
        item, shipped = claim.item, False
        _check_layout(item, grant)
        self._engine.begin_grant(claim)
        try:
            while item.memory is None or not (item.stage is Stage.FINISHED or self._eager(item, grant)):
                await item.change()
            is_whole = item.stage is Stage.FINISHED
            delivery = await self._senders.ship(grant, item)
            shipped = True
        except ShipError as error:
            self._metrics.ship_failures.labels(revoked=str(error.revoked).lower()).inc()
            return encode_pb2.EncodeEvent(
                ship_failed=encode_pb2.ShipFailed(grant_id=grant.id, revoked=error.revoked, detail=str(error))
            )
        finally:
            self._engine.end_grant(claim, shipped=shipped)
        if is_whole:  # otherwise its time is the tower's as well
            self._measure(grant, delivery)
        return encode_pb2.EncodeEvent(shipped=self._report(claim, grant, delivery))

    def _eager(self, item: Item, grant: pb.Grant) -> bool:
        if self._levels == "auto":
            seconds = self._links.get(_peer(grant), 0.0) * item.layout.total_bytes
            return seconds > self._engine.vision_seconds(item)
        return self._levels == "eager"

    def _measure(self, grant: pb.Grant, delivery: Delivery) -> None:
        if delivery.payload_bytes < _MIN_MEASURED_BYTES:
            return
        peer, pace = _peer(grant), delivery.seconds / delivery.payload_bytes
        known = self._links.get(peer, pace)
        self._links[peer] = known + _SMOOTHING * (pace - known)

    def _report(self, claim: Claim, grant: pb.Grant, delivery: Delivery) -> encode_pb2.Shipped:
        """What this shipment took, the making of the item included if this stream waited for it."""
        now = time.monotonic()
        transfer = TimedStage(name="transfer", start=now - delivery.seconds, end=now)
        self._metrics.count_delivery(delivery)
        self._metrics.observe(transfer)
        claim.transfers.append(transfer)
        made = [] if claim.found_finished else [stage for stage in claim.item.stages if stage.name in _TOLD]
        return encode_pb2.Shipped(
            grant_id=grant.id,
            bytes=delivery.payload_bytes,
            transport=delivery.transport,
            times=[
                common_pb2.StageTime(stage=stage.name, milliseconds=1000 * stage.seconds) for stage in (*made, transfer)
            ],
        )


def _check_layout(item: Item, grant: pb.Grant) -> None:
    try:
        wanted = EmbeddingLayout.from_wire(grant.layout)
    except ValueError as error:
        raise ModelMismatchError(f"the grant asks for {error}") from None
    if wanted != item.layout:
        raise ModelMismatchError(f"the language server expects {wanted}, the encode server makes {item.layout}")


def _peer(grant: pb.Grant) -> str:
    return grant.endpoints[0].address if grant.endpoints else ""
