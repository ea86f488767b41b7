"""The inbox: checks frames against the grants that the engine opened, and puts their payload where it belongs.

    engine  --open(grant, layout, region)-->  Inbox  <--begin, commit--  receivers (threads, event loop)
            <--on_filled / on_closed--------

Of a grant that was opened, exactly one end is told: `on_filled` when every byte is verified and held, or `on_closed`
when it is void. From then on nobody writes to its region. A region that was handed out by `begin` is written to
without the lock; that is why a grant which is closed meanwhile ends only when that write does.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable
from typing import get_args

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter

from common.embeddings import EmbeddingLayout
from common.pb import embedding_pb2 as pb
from common.rpc import PROTOCOL_VERSION
from common.transport.base import FrameRejected, RejectReason
from common.transport.frame import MAX_PAYLOAD_BYTES, checksum

MAX_HEADER_BYTES = 1024  # ours have about 60


class InboxMetrics:
    """Counters of the receiving side."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.frames = Counter("epd_frames", "Frames taken.", ["transport"], registry=registry)
        self.bytes = Counter("epd_transfer_bytes", "Embedding bytes taken.", ["transport"], registry=registry)
        self.rejected = Counter("epd_frames_rejected", "Frames not taken.", ["reason"], registry=registry)
        for reason in get_args(RejectReason):  # shown from the start: what appears with its first event has no rate
            self.rejected.labels(reason)


class Ranges:
    """Which bytes of a tensor are held: disjoint half-open ranges in ascending order, neighbours merged."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def overlap(self, start: int, end: int) -> int:
        """How many of the bytes [start, end) are held."""
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_left(self._starts, end)
        return sum(min(end, self._ends[i]) - max(start, self._starts[i]) for i in range(first, last))

    def add(self, start: int, end: int) -> None:
        """Takes [start, end), of which nothing is held yet."""
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]


class _Grant:
    """A live grant. `closing` is set once it is void; it stays in the table only until a write in progress ends."""

    def __init__(self, layout: EmbeddingLayout, region: memoryview) -> None:
        self.layout = layout
        self.region = region
        self.held = {tensor: Ranges() for tensor in layout.tensors}
        self.missing = layout.total_bytes
        self.writing = False
        self.closing: str | None = None

    def fault(self, header: pb.FrameHeader) -> RejectReason | None:
        """What is wrong with a frame of this grant."""
        layout = self.layout
        if header.protocol != PROTOCOL_VERSION:
            return "protocol"
        if header.tensor not in self.held:
            return "tensor"
        if header.dtype != layout.dtype:
            return "dtype"
        if tuple(header.shape) != (layout.rows, layout.hidden):
            return "shape"
        end = header.offset + header.length
        if not 0 < header.length <= MAX_PAYLOAD_BYTES or end > layout.tensor_bytes:
            return "range"
        if self.writing:
            return "concurrent"
        overlap = self.held[header.tensor].overlap(header.offset, end)
        return None if overlap == 0 else "duplicate" if overlap == header.length else "overlap"

    def memory(self, header: pb.FrameHeader) -> memoryview:
        start = self.layout.offset(header.tensor) + header.offset
        return self.region[start : start + header.length]


class Inbox:
    """A `FrameSink` over the grants that are open. Thread safe.

    Args:
        on_filled: told the id of a grant whose every byte is verified and lies in its region.
        on_closed: told the id of a grant that is void, and why: a `RejectReason`, or "" if `revoke` asked for it.
        metrics: counters of this inbox.

    The callbacks are called from the receivers' threads, or from `revoke`'s caller; they must not block.
    """

    def __init__(
        self,
        *,
        on_filled: Callable[[bytes], None],
        on_closed: Callable[[bytes, str], None],
        metrics: InboxMetrics,
    ) -> None:
        self._on_filled = on_filled
        self._on_closed = on_closed
        self._metrics = metrics
        self._grants: dict[bytes, _Grant] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._grants)

    def open(self, grant_id: bytes, layout: EmbeddingLayout, region: memoryview) -> None:
        """Takes frames of this grant from now on, into `region`: writable, `layout.total_bytes` bytes."""
        region = region.cast("B")
        assert len(region) == layout.total_bytes, f"{len(region)} bytes for a layout of {layout.total_bytes}"
        assert not region.readonly
        with self._lock:
            assert grant_id not in self._grants, "a grant is opened once"
            self._grants[grant_id] = _Grant(layout, region)

    def revoke(self, grant_id: bytes) -> None:
        """Takes no frame of this grant any more; `on_closed` says when its region is free of writers.

        That is at once if nobody writes, also when the grant has ended before (an `on_filled` may cross a `revoke`).
        """
        with self._lock:
            closed = self._close(grant_id, "") if grant_id in self._grants else ""
        self._tell(grant_id, closed)

    def begin(self, sealed: pb.SealedHeader) -> tuple[pb.FrameHeader, memoryview]:
        """See `FrameSink`. A frame that is not as granted makes its grant void."""
        header = self._parse(sealed)
        with self._lock:
            grant = self._grants.get(header.grant_id)
            if grant is None or grant.closing is not None:
                raise self._rejected("unknown_grant", _receipt(header.grant_id, pb.Receipt.UNKNOWN_GRANT))
            fault = grant.fault(header)
            if fault is None:
                grant.writing = True
                return header, grant.memory(header)
            if fault == "duplicate":
                raise self._rejected(fault)
            closed = self._close(header.grant_id, fault)
        self._tell(header.grant_id, closed)
        raise self._rejected(fault, _receipt(header.grant_id, pb.Receipt.REVOKED, fault))

    def commit(self, sealed: pb.SealedHeader, header: pb.FrameHeader, transport: pb.Transport) -> pb.Receipt | None:
        """See `FrameSink`. Tells `on_filled` before it returns the receipt."""
        grant = self._grants[header.grant_id]
        assert grant.writing
        if checksum(sealed.header, grant.memory(header)) != sealed.checksum:
            raise FrameRejected("checksum", self.reject(header, "checksum"))
        with self._lock:
            grant.writing = False
            revoked = grant.closing is not None
            closed = self._close(header.grant_id, "") if revoked else None
            if not revoked:
                grant.held[header.tensor].add(header.offset, header.offset + header.length)
                grant.missing -= header.length
            filled = not revoked and grant.missing == 0
            if filled:
                del self._grants[header.grant_id]
        if revoked:
            self._tell(header.grant_id, closed)
            raise self._rejected("unknown_grant", _receipt(header.grant_id, pb.Receipt.REVOKED))
        label = pb.Transport.Name(transport).lower()
        self._metrics.frames.labels(label).inc()
        self._metrics.bytes.labels(label).inc(header.length)
        if not filled:
            return None
        self._on_filled(header.grant_id)
        return _receipt(header.grant_id, pb.Receipt.RECEIVED)

    def reject(self, header: pb.FrameHeader, reason: RejectReason) -> pb.Receipt:
        """See `FrameSink`."""
        with self._lock:
            self._grants[header.grant_id].writing = False
        return self.void(header.grant_id, reason)

    def void(self, grant_id: bytes, reason: RejectReason) -> pb.Receipt:
        """See `FrameSink`."""
        with self._lock:
            if grant_id not in self._grants:
                return _receipt(grant_id, pb.Receipt.UNKNOWN_GRANT)
            closed = self._close(grant_id, reason)
        self._rejected(reason)
        self._tell(grant_id, closed)
        return _receipt(grant_id, pb.Receipt.REVOKED, reason)

    def refuse(self, reason: RejectReason) -> None:
        """See `FrameSink`."""
        self._rejected(reason)

    def _parse(self, sealed: pb.SealedHeader) -> pb.FrameHeader:
        try:
            if len(sealed.header) <= MAX_HEADER_BYTES:
                return pb.FrameHeader.FromString(sealed.header)
        except DecodeError:
            pass
        raise self._rejected("malformed")

    def _rejected(self, reason: RejectReason, receipt: pb.Receipt | None = None) -> FrameRejected:
        self._metrics.rejected.labels(reason).inc()
        return FrameRejected(reason, receipt)

    def _close(self, grant_id: bytes, reason: str) -> str | None:
        """Under the lock: the reason to tell now, or None when the write in progress will tell it at its end."""
        grant = self._grants[grant_id]
        if grant.closing is None:
            grant.closing = reason
        if grant.writing:
            return None
        del self._grants[grant_id]
        return grant.closing

    def _tell(self, grant_id: bytes, closed: str | None) -> None:
        if closed is not None:
            self._on_closed(grant_id, closed)


def _receipt(grant_id: bytes, outcome: pb.Receipt.Outcome, detail: str = "") -> pb.Receipt:
    return pb.Receipt(grant_id=grant_id, outcome=outcome, detail=detail)
