from __future__ import annotations

import contextlib
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from common.embeddings import EmbeddingLayout
from common.pb import common_pb2
from common.pb import embedding_pb2 as pb
from common.transport.base import FrameRejected
from common.transport.frame import MAX_PAYLOAD_BYTES, Frame, checksum, seal
from language_server.inbox import Inbox, InboxMetrics, Ranges
from tests.unit.common.transport.kit import LAYOUT, Ends, content

GRANT = b"g" * 16


class Box:
    """An inbox with one open grant, filled by hand."""

    def __init__(self, layout: EmbeddingLayout = LAYOUT) -> None:
        self.layout = layout
        self.ends = Ends()
        self.registry = CollectorRegistry()
        metrics = InboxMetrics(self.registry)
        self.inbox = Inbox(on_filled=self.ends.on_filled, on_closed=self.ends.on_closed, metrics=metrics)
        self.region = bytearray(layout.total_bytes)
        self.inbox.open(GRANT, layout, memoryview(self.region))

    def put(self, frame: Frame) -> pb.Receipt | None:
        header, memory = self.inbox.begin(frame.sealed)
        memory[:] = frame.payload[: len(memory)]
        return self.inbox.commit(frame.sealed, header, pb.ZMQ)

    def rejected(self, reason: str) -> float:
        return self.registry.get_sample_value("epd_frames_rejected_total", {"reason": reason}) or 0.0


def frames(layout: EmbeddingLayout, data: bytes, *, limit: int = 100) -> list[Frame]:
    made = []
    for tensor, offset, length in layout.pieces(limit):
        start = layout.offset(tensor) + offset
        payload = memoryview(data)[start : start + length]
        sealed = seal(grant_id=GRANT, layout=layout, tensor=tensor, offset=offset, payload=payload)
        made.append(Frame(sealed=sealed, payload=payload))
    return made


def reseal(frame: Frame, **changes: object) -> Frame:
    """The same payload under a header that says something else, with a right checksum."""
    header = pb.FrameHeader.FromString(frame.sealed.header)
    for name, value in changes.items():
        if name == "shape":
            del header.shape[:]
            header.shape.extend(value)
        else:
            setattr(header, name, value)
    raw = header.SerializeToString()
    return Frame(sealed=pb.SealedHeader(header=raw, checksum=checksum(raw, frame.payload)), payload=frame.payload)


DATA = content(LAYOUT, b"data")
FRAMES = frames(LAYOUT, DATA)


def test_the_last_frame_fills_the_grant() -> None:
    box = Box()
    receipts = [box.put(frame) for frame in FRAMES]
    assert receipts[:-1] == [None] * (len(FRAMES) - 1)
    assert receipts[-1] == pb.Receipt(grant_id=GRANT, outcome=pb.Receipt.RECEIVED)
    assert box.ends.filled == [GRANT]
    assert box.region == DATA
    assert len(box.inbox) == 0


@given(st.integers(1, 400), st.integers())
@settings(max_examples=60, deadline=None)
def test_any_cut_in_any_order_assembles(limit: int, seed: int) -> None:
    box, cut = Box(), frames(LAYOUT, DATA, limit=limit)
    random.Random(seed).shuffle(cut)
    for frame in cut:
        assert box.ends.filled == []
        box.put(frame)
    assert box.region == DATA
    assert box.ends.filled == [GRANT]
    assert box.ends.closed == []


@given(st.integers(0, len(FRAMES) - 1), st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_anywhere_is_never_taken(index: int, data: st.DataObject) -> None:
    """In header, checksum or payload: the frame is not counted as held, whatever the header then seems to say."""
    frame = FRAMES[index]
    raw = bytearray(frame.sealed.SerializeToString() + bytes(frame.payload))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    split = len(raw) - len(frame.payload)
    box = Box()
    try:
        sealed = pb.SealedHeader.FromString(bytes(raw[:split]))
    except Exception:  # noqa: BLE001  (a receiver counts it as malformed)
        return
    spoilt = Frame(sealed=sealed, payload=memoryview(bytes(raw[split:])))
    try:
        header, memory = box.inbox.begin(spoilt.sealed)
        if len(memory) != len(spoilt.payload):
            box.inbox.reject(header, "length")
        else:
            memory[:] = spoilt.payload
            box.inbox.commit(spoilt.sealed, header, pb.ZMQ)
            pytest.fail("a spoilt frame was taken")
    except FrameRejected:
        pass
    assert box.ends.filled == []
    for good in FRAMES:  # were it held, its place would now be a duplicate and the item complete without it
        with contextlib.suppress(FrameRejected):
            box.put(good)
    assert box.rejected("duplicate") == 0
    assert box.ends.filled == [] or box.region == DATA


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("protocol", {"protocol": 2}),
        ("tensor", {"tensor": "deepstack.3"}),
        ("tensor", {"tensor": "deepstack.01"}),
        ("tensor", {"tensor": ""}),
        ("dtype", {"dtype": common_pb2.FLOAT32}),
        ("shape", {"shape": [24, 7]}),
        ("shape", {"shape": [7]}),
        ("shape", {"shape": [7, 24, 1]}),
        ("range", {"length": 0}),
        ("range", {"length": LAYOUT.tensor_bytes + 1}),
        ("range", {"offset": LAYOUT.tensor_bytes - 1}),
        ("range", {"offset": 2**63}),
        ("range", {"length": MAX_PAYLOAD_BYTES + 1}),
    ],
)
def test_a_frame_that_is_not_as_granted_makes_the_grant_void_untouched(reason: str, changes: dict[str, object]) -> None:
    box = Box()
    with pytest.raises(FrameRejected) as caught:
        box.inbox.begin(reseal(FRAMES[0], **changes).sealed)
    assert caught.value.reason == reason
    assert caught.value.receipt == pb.Receipt(grant_id=GRANT, outcome=pb.Receipt.REVOKED, detail=reason)
    assert box.ends.closed == [(GRANT, reason)]
    assert box.rejected(reason) == 1
    assert not any(box.region)


def test_a_frame_over_8_mib_is_out_of_range_even_where_the_tensor_is_larger() -> None:
    layout = EmbeddingLayout(rows=5000, hidden=1024, levels=0, dtype=common_pb2.BFLOAT16)
    box = Box(layout)
    frame = frames(layout, bytes(layout.total_bytes), limit=MAX_PAYLOAD_BYTES + 1)[0]
    with pytest.raises(FrameRejected, match="range"):
        box.inbox.begin(frame.sealed)


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
@settings(max_examples=100, deadline=None)
def test_junk_disturbs_nobody(header: bytes, number: int) -> None:
    box = Box()
    with pytest.raises(FrameRejected) as caught:
        box.inbox.begin(pb.SealedHeader(header=header, checksum=number))
    assert caught.value.reason in ("malformed", "unknown_grant")
    for frame in FRAMES:
        box.put(frame)
    assert box.ends.filled == [GRANT]


def test_a_header_of_absurd_size_is_not_even_parsed() -> None:
    box = Box()
    header = pb.FrameHeader(grant_id=GRANT, shape=[1] * 5000).SerializeToString()
    with pytest.raises(FrameRejected, match="malformed"):
        box.inbox.begin(pb.SealedHeader(header=header))


@pytest.mark.parametrize("grant_id", [b"", b"f" * 16, GRANT + b"x"])
def test_foreign_frames_never_touch_the_region(grant_id: bytes) -> None:
    box = Box()
    with pytest.raises(FrameRejected) as caught:
        box.inbox.begin(reseal(FRAMES[0], grant_id=grant_id).sealed)
    assert caught.value.receipt == pb.Receipt(grant_id=grant_id, outcome=pb.Receipt.UNKNOWN_GRANT)
    assert box.ends.closed == []


def test_late_frames_never_touch_the_region() -> None:
    box = Box()
    for frame in FRAMES:
        box.put(frame)
    box.region[:] = bytes(len(box.region))
    for frame in FRAMES:
        with pytest.raises(FrameRejected, match="unknown_grant"):
            box.inbox.begin(frame.sealed)
    assert not any(box.region)


def test_duplicates_are_dropped_and_counted() -> None:
    box = Box()
    for frame in FRAMES[:-1]:
        box.put(frame)
        with pytest.raises(FrameRejected, match="duplicate") as caught:
            box.inbox.begin(frame.sealed)
        assert caught.value.receipt is None
    box.put(FRAMES[-1])
    assert box.ends.filled == [GRANT]
    assert box.rejected("duplicate") == len(FRAMES) - 1


def test_an_overlap_makes_the_grant_void() -> None:
    box = Box()
    box.put(FRAMES[0])
    payload = memoryview(DATA)[50:150]
    sealed = seal(grant_id=GRANT, layout=LAYOUT, tensor="main", offset=50, payload=payload)
    with pytest.raises(FrameRejected, match="overlap"):
        box.inbox.begin(sealed)
    assert box.ends.closed == [(GRANT, "overlap")]


def test_two_writers_under_one_grant_make_it_void_once_the_first_has_ended() -> None:
    box = Box()
    header, memory = box.inbox.begin(FRAMES[0].sealed)
    with pytest.raises(FrameRejected, match="concurrent"):
        box.inbox.begin(FRAMES[1].sealed)
    assert box.ends.closed == []
    memory[:] = FRAMES[0].payload
    with pytest.raises(FrameRejected) as caught:
        box.inbox.commit(FRAMES[0].sealed, header, pb.ZMQ)
    assert caught.value.receipt is not None
    assert caught.value.receipt.outcome == pb.Receipt.REVOKED
    assert box.ends.closed == [(GRANT, "concurrent")]


def test_a_revocation_during_a_write_is_done_when_that_write_is() -> None:
    box = Box()
    header, memory = box.inbox.begin(FRAMES[0].sealed)
    box.inbox.revoke(GRANT)
    assert box.ends.closed == []
    with pytest.raises(FrameRejected, match="unknown_grant"):
        box.inbox.begin(FRAMES[1].sealed)
    memory[:] = FRAMES[0].payload
    with pytest.raises(FrameRejected):
        box.inbox.commit(FRAMES[0].sealed, header, pb.ZMQ)
    assert box.ends.closed == [(GRANT, "")]
    assert len(box.inbox) == 0


def test_a_revocation_during_a_write_that_turns_out_bad_is_told_once() -> None:
    box = Box()
    header, _ = box.inbox.begin(FRAMES[0].sealed)
    box.inbox.revoke(GRANT)
    with pytest.raises(FrameRejected, match="checksum"):
        box.inbox.commit(FRAMES[0].sealed, header, pb.ZMQ)
    assert box.ends.closed == [(GRANT, "")]


@pytest.mark.parametrize("ended", [True, False])
def test_every_revocation_is_answered(ended: bool) -> None:
    box = Box()
    for frame in FRAMES if ended else []:
        box.put(frame)
    box.inbox.revoke(GRANT)
    box.inbox.revoke(b"never heard of")
    assert box.ends.closed == [(GRANT, ""), (b"never heard of", "")]


def test_void_says_whether_the_grant_was_live() -> None:
    box = Box()
    assert box.inbox.void(GRANT, "incomplete").outcome == pb.Receipt.REVOKED
    assert box.inbox.void(GRANT, "incomplete").outcome == pb.Receipt.UNKNOWN_GRANT
    assert box.ends.closed == [(GRANT, "incomplete")]
    assert box.rejected("incomplete") == 1


def test_many_threads_fill_and_revoke_without_a_grant_ending_twice() -> None:
    box = Box()
    box.inbox.revoke(GRANT)
    box.ends.closed.clear()
    grants = [os.urandom(16) for _ in range(64)]
    for grant_id in grants:
        box.inbox.open(grant_id, LAYOUT, memoryview(bytearray(LAYOUT.total_bytes)))

    def write() -> None:
        for grant_id in grants:
            for frame in FRAMES:
                with contextlib.suppress(FrameRejected):
                    box.put(reseal(frame, grant_id=grant_id))

    writer = threading.Thread(target=write)
    writer.start()
    for grant_id in grants:
        box.inbox.revoke(grant_id)
    writer.join()
    assert {reason for _, reason in box.ends.closed} == {""}
    assert sorted(grant_id for grant_id, _ in box.ends.closed) == sorted(grants)
    assert len(box.inbox) == 0


@given(st.permutations(range(12)), st.lists(st.integers(1, 40), min_size=12, max_size=12))
@settings(max_examples=100, deadline=None)
def test_ranges_know_what_is_held(order: list[int], sizes: list[int]) -> None:
    starts = [sum(sizes[:i]) for i in range(12)]
    ranges, held = Ranges(), set[int]()
    for i in order:
        start, end = starts[i], starts[i] + sizes[i]
        assert ranges.overlap(start, end) == 0
        ranges.add(start, end)
        held.update(range(start, end))
        for probe in ((0, sum(sizes)), (start - 5, end + 5), (start, end)):
            first, last = max(0, probe[0]), probe[1]
            assert ranges.overlap(first, last) == len(held & set(range(first, last)))
