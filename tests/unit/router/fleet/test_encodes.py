from __future__ import annotations

import asyncio
import logging
from typing import cast

from common.errors import InternalError
from common.logs import RateLimitedLog
from common.pb import common_pb2
from common.tracing import NO_SPAN
from router.fleet.encodes import EncodeMessage, ItemEncode, ItemFailed, MediaItem
from router.fleet.fleet import Fleet
from router.metrics import RouterMetrics


class Broken:
    warn = RateLimitedLog(logging.getLogger("test"))

    def choose_encode(self, key: bytes, pin: None) -> None:
        raise ZeroDivisionError


async def test_a_fault_of_ours_is_told_to_the_request() -> None:
    said = asyncio.Queue[EncodeMessage]()
    item = MediaItem(
        key=b"key",
        kind=common_pb2.IMAGE,
        options=common_pb2.MediaOptions(),
        sizes=(1,),
        parts=(b"x",),
        digest=b"",
        param="",
    )
    encode = ItemEncode(
        item,
        fleet=cast(Fleet, Broken()),
        post=said.put_nowait,
        metrics=RouterMetrics(),
        request_id="1",
        span=NO_SPAN,
        attempts=3,
        answer_timeout=1.0,
        deadline=asyncio.get_running_loop().time() + 10,
        metadata=None,
    )
    encode.open()
    failed = await asyncio.wait_for(said.get(), 1)
    assert isinstance(failed, ItemFailed)
    assert isinstance(failed.error, InternalError)
