from __future__ import annotations

import asyncio
import socket

import pytest

from router.listening import listen


@pytest.mark.parametrize("shared", [False, True])
async def test_what_is_written_is_sent_at_once(shared: bool) -> None:
    """Else a body waits until the client acknowledges the head before it, which it puts off for 40 milliseconds."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    with listen("127.0.0.1", 0, shared=shared) as listener:
        async with await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), sock=listener):
            _, ours = await asyncio.open_connection(*listener.getsockname())
            theirs = await accepted.get()
            assert theirs.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for writer in (ours, theirs):
                writer.close()
                await writer.wait_closed()
