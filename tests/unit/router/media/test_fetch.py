from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import trustme
from prometheus_client import Gauge

from common.errors import BadMediaError, OverloadedError
from router.media.budget import ByteBudget, Hold
from router.media.fetch import Fetcher, HostResolver, IPAddress, is_public
from router.threads import Threads
from tests.integration.router.web import BODY, Web, web_server

T = TypeVar("T")


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8"],
)
def test_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "fec0::1", "feff::1", "192.88.99.1", "192.0.0.8", "3fff::1", "3fff:fff::1",
    ],
)  # fmt: skip
def test_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def hold(capacity: int = 1 << 20) -> Hold:
    return Hold(ByteBudget(capacity, Gauge("bytes", "", registry=None)))


class Names:
    """A resolver that counts, and that may answer differently every time."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[IPAddress]:
        self.asked.append(host)
        found = self.addresses.get(host.replace(".", "_"))
        if found is None:
            raise OSError("no such host")
        return [ipaddress.ip_address(found.pop(0) if len(found) > 1 else found[0])]


def fetcher(names: Names, *, allowed: str = "127.0.0.1", timeout: float = 2.0, stall_timeout: float = 5.0) -> Fetcher:
    return Fetcher(
        timeout=timeout,
        connect_timeout=1.0,
        stall_timeout=stall_timeout,
        concurrency=2,
        allowed=lambda address: str(address) == allowed,
        resolver=names,
    )


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with web_server() as server:
        yield server


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(web: Web) -> None:
    """A name that means something else a moment later (DNS rebinding) gains nothing."""
    names = Names(good_example=["127.0.0.1", "127.0.0.2"])
    fetch = fetcher(names)
    port = web.url.rpartition(":")[2]
    fetched = await fetch.fetch(f"http://good.example:{port}/image", limit=1000, hold=hold())
    assert (fetched.body, fetched.content_type) == (BODY, "image/png")
    assert names.asked == ["good.example"]
    assert web.hosts == [f"good.example:{port}"]
    await fetch.close()


async def test_every_redirect_is_checked(web: Web) -> None:
    names = Names(good_example=["127.0.0.1"], evil_example=["127.0.0.2"])
    fetch = fetcher(names)
    port = web.url.rpartition(":")[2]
    url = f"http://good.example:{port}/redirect?to="
    assert (await fetch.fetch(url + "/image", limit=1000, hold=hold())).body == BODY
    for target in (f"http://evil.example:{port}/image", "//evil.example/image"):
        with pytest.raises(BadMediaError, match="public"):
            await fetch.fetch(url + target, limit=1000, hold=hold())
    assert names.asked[-2:] == ["good.example", "evil.example"]
    await fetch.close()


async def test_nothing_stays_between_fetches(web: Web) -> None:
    """No connection, whose certificate was checked for another name, and no cookie."""
    fetch = fetcher(Names(good_example=["127.0.0.1"]))
    port = web.url.rpartition(":")[2]
    for _ in range(2):
        await fetch.fetch(f"http://good.example:{port}/cookie", limit=1000, hold=hold())
    assert web.connections == 2
    await fetch.close()


async def test_limits(web: Web) -> None:
    fetch = fetcher(Names(good_example=["127.0.0.1"]), timeout=0.5)
    base = f"http://good.example:{web.url.rpartition(':')[2]}"
    with pytest.raises(BadMediaError, match="bytes"):
        await fetch.fetch(base + "/image", limit=len(BODY) - 1, hold=hold())
    with pytest.raises(OverloadedError):
        await fetch.fetch(base + "/image", limit=1000, hold=hold(capacity=5))
    with pytest.raises(BadMediaError, match=r"longer than 0\.5"):
        await asyncio.wait_for(fetch.fetch(base + "/stall", limit=1000, hold=hold()), 5)
    await fetch.close()


@pytest.mark.parametrize("path", ["/silent", "/stall"])
async def test_servers_that_fall_silent(web: Web, path: str) -> None:
    """Before the answer or in the middle of it."""
    fetch = fetcher(Names(good_example=["127.0.0.1"]), timeout=60.0, stall_timeout=0.2)
    url = f"http://good.example:{web.url.rpartition(':')[2]}{path}"
    with pytest.raises(BadMediaError, match=r"said nothing for longer than 0\.2 s"):
        await asyncio.wait_for(fetch.fetch(url, limit=1000, hold=hold()), 5)
    await fetch.close()


async def test_servers_that_never_come_to_an_end(web: Web) -> None:
    """A byte now and then is not silence, but the time of all is limited too."""
    fetch = fetcher(Names(good_example=["127.0.0.1"]), timeout=0.5, stall_timeout=5.0)
    url = f"http://good.example:{web.url.rpartition(':')[2]}/trickle"
    with pytest.raises(BadMediaError, match=r"longer than 0\.5 s"):
        await asyncio.wait_for(fetch.fetch(url, limit=1_000_000, hold=hold()), 5)
    await fetch.close()


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    fetch = fetcher(Names(good_example=["127.0.0.1"]))
    for scheme in ("http", "https"):
        with pytest.raises(BadMediaError, match="ConnectError"):
            await asyncio.wait_for(fetch.fetch(f"{scheme}://good.example:{port}/", limit=1000, hold=hold()), 5)
    await fetch.close()


async def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate has to be that of the name in the URL, made by somebody who is trusted, whatever the address."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.example").configure_cert(context)
    names = Names(good_example=["127.0.0.1"], other_example=["127.0.0.1"])
    async with web_server(tls=context) as server:
        port = server.url.rpartition(":")[2]
        stranger = fetcher(names)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        fetch = fetcher(names)
        fetched = await fetch.fetch(f"https://good.example:{port}/image", limit=1000, hold=hold())
        assert fetched.body == BODY
        assert server.hosts == [f"good.example:{port}"]
        for fetching, host in ((fetch, "other.example"), (stranger, "good.example")):
            with pytest.raises(BadMediaError, match="ConnectError"):
                await fetching.fetch(f"https://{host}:{port}/image", limit=1000, hold=hold())
        for fetching in (fetch, stranger):
            await fetching.close()
    assert len(server.hosts) == 1, "nothing was asked of a server that is not trusted"


async def test_a_server_without_tls_behind_https(web: Web) -> None:
    fetch = fetcher(Names(good_example=["127.0.0.1"]))
    url = f"https://good.example:{web.url.rpartition(':')[2]}/image"
    with pytest.raises(BadMediaError, match="connecting"):
        await asyncio.wait_for(fetch.fetch(url, limit=1000, hold=hold()), 5)
    await fetch.close()


async def test_a_name_server_that_does_not_answer() -> None:
    async def resolver(host: str, port: int) -> list[IPAddress]:
        await asyncio.Event().wait()
        return []

    fetch = Fetcher(timeout=0.2, connect_timeout=1.0, stall_timeout=1.0, concurrency=2, resolver=resolver)
    with pytest.raises(BadMediaError, match="longer than"):
        await asyncio.wait_for(fetch.fetch("http://host.example/", limit=1000, hold=hold()), 5)
    await fetch.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http:",
        "//host/x",
        "http://[::1",
        "gopher://x/",
        "http://\ud800/",
        "http://x:99999/",
        "http://x:65536/",
        "javascript:1",
    ],
)
async def test_urls_that_are_none(url: str) -> None:
    """None of them is even looked up."""
    names = Names()
    fetch = fetcher(names)
    with pytest.raises(BadMediaError):
        await fetch.fetch(url, limit=1000, hold=hold())
    assert not names.asked
    await fetch.close()


async def test_what_a_connection_may_end_in() -> None:
    """An error of the operating system that the HTTP library has no word for is one of the URL all the same."""

    async def resolver(host: str, port: int) -> list[IPAddress]:
        return [ipaddress.ip_address("fe80::1%nowhere")]

    for failure in (OSError("no route"), ValueError("embedded null")):

        def refuse(address: IPAddress, failure: Exception = failure) -> bool:
            raise failure

        fetch = Fetcher(
            timeout=2.0, connect_timeout=1.0, stall_timeout=1.0, concurrency=2, allowed=refuse, resolver=resolver
        )
        with pytest.raises(BadMediaError):
            await fetch.fetch("http://host.example/", limit=1000, hold=hold())
        await fetch.close()


async def test_slow_names_keep_nobody_else_waiting() -> None:
    """Names are looked up by threads of their own: the event loop's stay free."""
    entered = threading.Semaphore(0)
    leave = threading.Event()

    class Slow(Threads):
        async def run(self, work: Callable[[], T]) -> T:
            def slowly() -> T:
                entered.release()
                leave.wait(10)
                return work()

            return await super().run(slowly)

    threads = Slow(ThreadPoolExecutor(2, "names"))
    resolve = HostResolver(threads)
    looking = [asyncio.create_task(resolve("127.0.0.1", 80)) for _ in range(40)]
    try:
        assert await asyncio.wait_for(asyncio.to_thread(entered.acquire, timeout=5), 5)
        assert await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80), 5)
    finally:
        leave.set()
    assert await asyncio.gather(*looking) == [[ipaddress.ip_address("127.0.0.1")]] * 40
    threads.close()
