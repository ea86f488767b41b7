from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import cast

import pytest

from router.fleet.pool import Pool, choose
from router.fleet.servers import EncodeServer, Server


class Fake:
    """As much of a server as choosing needs."""

    def __init__(self, address: str, load: float = 0.0) -> None:
        self.address = address
        self.load = load
        self.removed = False
        self.running = asyncio.Event()
        self.ready = True

    def __str__(self) -> str:
        return self.address

    async def run(self) -> None:
        self.running.set()
        while not self.removed:
            await asyncio.sleep(0.001)


def pick(servers: list[Fake], key: bytes, slack: float = 0.0) -> Fake:
    chosen = choose(cast("list[Server]", servers), key, lambda server: cast(Fake, server).load, slack)
    return cast(Fake, chosen)


KEYS = [i.to_bytes(4, "big") for i in range(3000)]


def test_keys_stay_where_they_are_when_servers_come_and_go() -> None:
    servers = [Fake(f"s{i}:1") for i in range(4)]
    before = {key: pick(servers, key).address for key in KEYS}
    assert all(600 < count < 900 for count in Counter(before.values()).values()), "spread evenly"
    after = {key: pick(servers[:3], key).address for key in KEYS}
    assert all(after[key] == before[key] for key in KEYS if before[key] != "s3:1")
    assert {key: pick(servers[::-1], key).address for key in KEYS} == before, "the order of servers does not matter"


def test_a_busy_server_is_passed_over() -> None:
    servers = [Fake("a:1", load=10.0), Fake("b:1", load=1.0), Fake("c:1", load=1.0)]
    assert "a:1" not in {pick(servers, key).address for key in KEYS}
    assert "a:1" in {pick(servers, key, slack=5.0).address for key in KEYS}
    assert {pick([Fake("a:1", load=9.0)], key).address for key in KEYS} == {"a:1"}
    assert {pick([Fake("a:1", 3.0), Fake("b:1", 3.0)], key).address for key in KEYS} == {"a:1", "b:1"}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -1e9])
def test_a_load_that_is_none(odd: float) -> None:
    servers = [Fake("a:1", load=odd), Fake("b:1", load=1.0), Fake("c:1", load=1.0)]
    assert {pick(servers, key).address for key in KEYS} == {"b:1", "c:1"}
    assert {pick([Fake("a:1", load=odd)], key).address for key in KEYS} == {"a:1"}


async def test_names_are_resolved_again_and_again() -> None:
    answers: list[list[str] | None]
    answers = [["10.0.0.1:1", "10.0.0.2:1"], ["10.0.0.2:1", "10.0.0.3:1"], None, ["10.0.0.3:1"]]
    seen = asyncio.Queue[int]()

    async def resolver(address: str) -> list[str]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        seen.put_nowait(len(answers))
        if answer is None:
            raise OSError("no answer")
        return answer

    pool = Pool(["encode:1"], lambda address: cast(EncodeServer, Fake(address)), interval=0.02, resolver=resolver)
    running = asyncio.create_task(pool.run())
    history = []
    for _ in range(5):
        await seen.get()
        await asyncio.sleep(0.01)
        history.append(sorted(pool.servers))
    running.cancel()
    await asyncio.wait([running])
    assert history[0] == ["10.0.0.1:1", "10.0.0.2:1"]
    assert history[1] == ["10.0.0.2:1", "10.0.0.3:1"]
    assert history[2] == history[1], "a resolver that fails removes nobody"
    assert history[4] == ["10.0.0.3:1"]


async def test_a_name_that_can_not_be_resolved_keeps_nobody_of_another() -> None:
    answers = {"a:1": ["10.0.0.1:1", "10.0.0.2:1"], "b:1": ["10.0.0.3:1"], "typo:1": []}
    rounds = asyncio.Queue[None]()

    async def resolver(address: str) -> list[str]:
        if address == "typo:1":
            rounds.put_nowait(None)
        if not answers[address]:
            raise OSError("no answer")
        return answers[address]

    pool = Pool(list(answers), lambda address: cast(EncodeServer, Fake(address)), interval=0.01, resolver=resolver)
    running = asyncio.create_task(pool.run())

    async def servers() -> list[str]:
        """After two more rounds, of which the first may have begun before."""
        while not rounds.empty():
            rounds.get_nowait()
        for _ in range(3):
            await rounds.get()
        return sorted(pool.servers)

    assert await servers() == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
    answers |= {"a:1": ["10.0.0.2:1"], "b:1": []}
    assert await servers() == ["10.0.0.2:1", "10.0.0.3:1"], "gone from the one, not known of the other"
    assert pool.unresolved.keys() == {"b:1", "typo:1"}
    running.cancel()
    await asyncio.wait([running])
