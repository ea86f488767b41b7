from __future__ import annotations

import asyncio

from router.fleet.servers import EncodeServer, Server
from tests.integration.router.peers import EncodePeer, running


async def test_a_fault_of_ours_at_one_server_ends_nothing() -> None:
    checks = asyncio.Queue[str]()

    async def check(server: Server) -> None:
        checks.put_nowait(server.trouble)
        if checks.qsize() == 1:
            raise AttributeError("what is this?")

    async def ship(grant: object) -> bool:
        return True

    peer = EncodePeer(ship)
    async with running(peer):
        server = EncodeServer("encode", peer.address, interval=0.01, timeout=1.0, check=check)
        watching = asyncio.create_task(server.run())
        async with asyncio.timeout(5):
            while not server.ready:
                await asyncio.sleep(0.01)
        assert checks.qsize() == 2
        watching.cancel()
        await asyncio.wait([watching])
