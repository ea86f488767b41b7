from __future__ import annotations

import asyncio

from router.generation.mailbox import Mailbox


async def test_mailbox_hands_over_all_that_is_there() -> None:
    mailbox = Mailbox[int]()
    mailbox.post(1)
    mailbox.post(2)
    assert await mailbox.take() == [1, 2]
    waiting = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    mailbox.post(3)
    mailbox.post(4)
    assert await waiting == [3, 4]
