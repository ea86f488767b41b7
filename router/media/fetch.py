"""Fetching media from the web, and from nowhere else.

A URL comes from a stranger, so it must not lead into the network that the router stands in. Every host, also the one
of each redirect, is resolved once, the addresses are checked, and the connection goes to an address that passed: what
a name means a moment later does not matter.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from common.errors import BadMediaError
from router.media.budget import Hold
from router.threads import Threads

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"accept": "image/*,video/*,*/*;q=0.5", "accept-encoding": "identity", "user-agent": "epd-router"}
# What `ipaddress` takes for global, at least in some versions of Python: ways to IPv4 (RFC 6052, 7526), documentation
# (RFC 9637), and protocols' own addresses (RFC 6890), of which two are anycast and none serves media.
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "192.88.99.0/24", "3fff::/20", "192.0.0.0/24")))


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to the internet at large: not private, loopback, link-local, multicast or reserved,
    also not by way of an IPv6 address that stands for an IPv4 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.sixtofour is not None or address.teredo is not None or address.is_site_local:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class HostResolver:
    """Args:
    threads: that do nothing else: strangers' names may take them as long as they like.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def __call__(self, host: str, port: int) -> list[IPAddress]:
        """All addresses of a host name or literal. Raises OSError if there are none."""
        found = await self._threads.run(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


@dataclass(frozen=True, kw_only=True)
class Fetched:
    body: bytes
    content_type: str  # without parameters, lower case; "" if the server named none


class Fetcher:
    """Downloads media.

    Args:
        timeout: seconds for one item, redirects included.
        connect_timeout: seconds of that for each connection.
        stall_timeout: seconds of that for which a server may say nothing.
        concurrency: downloads at the same time; more wait, inside their timeout.
        resolver: see `HostResolver`.
        allowed: which addresses may be connected to.
    """

    def __init__(
        self,
        *,
        timeout: float,
        connect_timeout: float,
        stall_timeout: float,
        concurrency: int,
        resolver: Callable[[str, int], Awaitable[list[IPAddress]]],
        allowed: Callable[[IPAddress], bool] = is_public,
    ) -> None:
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._allowed = allowed
        self._resolve = resolver
        # The bare transport: no proxies of the environment, no cookies that one user's fetch leaves for another's. No
        # connection is kept, because an address may serve many hosts and a kept one was verified for one of them.
        self._transport = httpx.AsyncHTTPTransport(
            verify=httpx.create_ssl_context(),  # SSL_CERT_FILE and SSL_CERT_DIR may name other authorities
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._transport.aclose()

    async def fetch(self, url: str, *, limit: int, hold: Hold) -> Fetched:
        """The body at `url`, of at most `limit` bytes, which are added to `hold` as they come.

        Raises:
            BadMediaError: there is nothing at `url` that could be used; the message says why.
            OverloadedError: from `hold`.
        """
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                return await self._follow(url, limit, hold)
        except TimeoutError:
            raise BadMediaError(f"fetching it took longer than {self._timeout:g} s") from None
        except httpx.ConnectTimeout:
            raise BadMediaError(f"connecting to its host took longer than {self._connect_timeout:g} s") from None
        except httpx.ReadTimeout:
            raise BadMediaError(f"its server said nothing for longer than {self._stall_timeout:g} s") from None
        except httpx.HTTPError as error:
            raise BadMediaError(f"fetching it failed ({type(error).__name__})") from None
        except (OSError, ValueError):
            raise BadMediaError("fetching it failed") from None

    async def _follow(self, text: str, limit: int, hold: Hold) -> Fetched:
        url = _parse(text)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._get(url)
            try:
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    url = _parse(response.headers["location"], base=url)
                    continue
                if response.status_code != 200:
                    raise BadMediaError(f"its server answered {response.status_code}")
                return await _read(response, limit, hold)
            finally:
                await response.aclose()
        raise BadMediaError(f"it is behind more than {_MAX_REDIRECTS} redirects")

    async def _get(self, url: httpx.URL) -> httpx.Response:
        address = await self._address(url)
        request = httpx.Request(
            "GET",
            url.copy_with(host=str(address)),
            headers={**_HEADERS, "host": url.netloc.decode()},
            extensions={
                "sni_hostname": url.host,  # also the name that the certificate is verified for
                "timeout": httpx.Timeout(self._stall_timeout, connect=self._connect_timeout).as_dict(),
            },
        )
        return await self._transport.handle_async_request(request)

    async def _address(self, url: httpx.URL) -> IPAddress:
        try:
            found = await self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        except (OSError, UnicodeError):
            raise BadMediaError(f"its host {url.host!r} can't be found") from None
        for address in found:
            if self._allowed(address):
                return address
        raise BadMediaError(f"its host {url.host!r} is not on the public internet")


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = base.join(text) if base is not None else httpx.URL(text)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise BadMediaError("it is not a valid URL") from None
    if url.scheme not in ("http", "https"):
        raise BadMediaError(f"URLs of scheme {url.scheme!r} are not fetched: only http, https and data")
    if not url.host:
        raise BadMediaError("its URL names no host")
    if (url.port or 0) > 65535:
        raise BadMediaError(f"its URL names port {url.port}, and there is none over 65535")
    if url.userinfo:
        raise BadMediaError("URLs with a user name or password are not fetched")
    return url


async def _read(response: httpx.Response, limit: int, hold: Hold) -> Fetched:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadMediaError("its server sent it compressed, which was not asked for")
    if response.headers.get("content-length", "0").isdecimal():
        _check_size(int(response.headers.get("content-length", "0")), limit)
    body = bytearray()
    async for chunk in response.aiter_raw():
        _check_size(len(body) + len(chunk), limit)
        hold.add(len(chunk))
        body += chunk
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Fetched(body=bytes(body), content_type=content_type)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BadMediaError(f"it has more than the {limit} bytes that are allowed")
