from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest

from common.config import ConfigError
from common.metrics import serve_metrics
from common.state import ProcessState, write_processes
from deploy.top.places import Place, Places, metrics_place, once_each, places_of, role_of, router_place
from deploy.top.scrape import Scrape
from deploy.top.watch import Watch
from encode_server.metrics import EncodeMetrics
from language_server.metrics import LanguageMetrics
from router.metrics import RouterMetrics


def test_the_state_file_of_serve_names_all_places(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_processes(
        file,
        [
            ProcessState(role="serve", pid=1),
            ProcessState(role="encode", pid=2, addresses={"grpc": "127.0.0.1:9001", "metrics": "127.0.0.1:9101"}),
            ProcessState(role="language", pid=3, addresses={"grpc": "127.0.0.1:9002", "data": "127.0.0.1:9003"}),
            ProcessState(role="router", pid=4, addresses={"http": "127.0.0.1:8000"}),
        ],
    )
    encode, router = places_of(file)
    assert (encode.name, encode.base, encode.role) == ("127.0.0.1:9001", "http://127.0.0.1:9101", "encode")
    assert (router.name, router.base, router.role) == ("127.0.0.1:8000", "http://127.0.0.1:8000", "router")


def test_a_state_file_without_anything_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has it started yet"):
        places_of(tmp_path / "not-there.json")
    (tmp_path / "wrong.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a state file"):
        places_of(tmp_path / "wrong.json")


def test_a_place_that_is_named_twice_is_one() -> None:
    places = once_each([metrics_place("a:1"), router_place("http://r:8000"), metrics_place("a:1")])
    assert [place.base for place in places] == ["http://a:1", "http://r:8000"]


async def test_a_name_stands_for_all_its_addresses_at_each_look() -> None:
    known: dict[str, list[str]] = {"encode:1": ["10.0.0.1:1", "10.0.0.2:1"], "language:2": ["10.0.0.9:2"]}

    async def resolver(address: str) -> list[str]:
        if address not in known:
            raise OSError("no such name")
        return known[address]

    own = Place(name="10.0.0.9:9002", base="http://10.0.0.9:2", role="language")  # of a state file
    places = Places([own], ["encode:1", "language:2", "typo:3"], timeout=9, resolver=resolver)

    async def shown() -> list[str]:
        return [place.name for place in await places.now()]

    assert await shown() == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.9:9002", "typo:3"]
    known["encode:1"] = ["10.0.0.2:1", "10.0.0.3:1"]
    assert await shown() == ["10.0.0.2:1", "10.0.0.3:1", "10.0.0.9:9002", "typo:3"]
    del known["encode:1"]
    assert await shown() == ["10.0.0.2:1", "10.0.0.3:1", "10.0.0.9:9002", "typo:3"], "that says nothing about them"


async def test_a_look_does_not_wait_for_a_name_server_for_ever() -> None:
    async def resolver(address: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    assert [place.name for place in await Places([], ["a:1"], timeout=0.01, resolver=resolver).now()] == ["a:1"]


async def test_servers_behind_one_name_are_told_apart() -> None:
    """And one that comes later is seen, too."""
    first, second = EncodeMetrics(), EncodeMetrics()
    first.batches.inc(3)
    port, stop = serve_metrics(first.registry, "127.0.0.1:0")
    _, stop_second = serve_metrics(second.registry, f"127.0.0.2:{port}")
    known = [f"127.0.0.1:{port}"]

    async def resolver(address: str) -> list[str]:
        return known

    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            watch = Watch(client, Places([], [f"encode:{port}"], timeout=9, resolver=resolver), {}, 9)
            assert [sight.place.name for sight in (await watch.look()).of("encode")] == known
            known = [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
            seen = {sight.place.name: sight for sight in (await watch.look()).of("encode")}
    finally:
        stop()
        stop_second()
    assert seen.keys() == set(known)
    counted = [seen[name].total.increase("epd_encodes_total") for name in known]  # type: ignore[union-attr]
    assert counted == [3, 0]
    assert [seen[name].recent is None for name in known] == [False, True]


@pytest.mark.parametrize(
    ("role", "metrics"), [("router", RouterMetrics()), ("encode", EncodeMetrics()), ("language", LanguageMetrics())]
)
def test_metrics_tell_whose_they_are(role: str, metrics: RouterMetrics | EncodeMetrics | LanguageMetrics) -> None:
    """Before anything was counted, too."""
    assert role_of(Scrape.parse(generate_latest(metrics.registry).decode(), 0.0)) == role


def test_metrics_of_others_are_nobodys() -> None:
    assert role_of(Scrape.parse("# TYPE go_threads gauge\ngo_threads 7\n", 0.0)) is None
