"""What every sender does alike: pump frames until a receipt comes, and read the receipt."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from common.pb import embedding_pb2 as pb
from common.transport.base import ShipError


async def until_receipt(pump: Coroutine[None, None, None], receipt: asyncio.Future[pb.Receipt]) -> None:
    """Runs `pump`, which sends the frames, and returns when the receipt says that they arrived.

    A receipt or a failure that comes while frames are still to be sent, or still to be made, ends the pump. A pump may
    end before the receipt comes; one that fails, fails the shipment.

    Raises:
        ShipError: the receipt says otherwise, or `receipt` was failed with one.
        EPDError: from `pump`: the item itself failed.
    """
    pumping = asyncio.ensure_future(pump)
    try:
        await asyncio.wait((pumping, receipt), return_when=asyncio.FIRST_COMPLETED)
        if not receipt.done():
            await pumping
        outcome = await receipt
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
    if outcome.outcome != pb.Receipt.RECEIVED:
        words = "never knew this grant" if outcome.outcome == pb.Receipt.UNKNOWN_GRANT else "took the grant back"
        detail = f" ({outcome.detail})" if outcome.detail else ""
        raise ShipError(f"the language server {words}{detail}", revoked=True)


async def uninterrupted(future: asyncio.Future[None]) -> None:
    """Waits for `future` even if the waiting task is cancelled meanwhile; the cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    future.result()
