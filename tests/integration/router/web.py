"""A web server with good, bad and stalled media on it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from router.config import RouterConfig
from tests.integration.router.system import CONFIG

BODY = b"image from the web"


@dataclass
class Web:
    url: str
    hosts: list[str]  # Host headers, in order
    connections: int = 0

    def config(self) -> RouterConfig:
        """A router's that may fetch from here."""
        return replace(CONFIG, allow_private_media=True)


@contextlib.asynccontextmanager
async def web_server(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    web = Web("", [])
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        web.connections += 1
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            web.hosts += [line[6:] for line in head.split("\r\n") if line.lower().startswith("host: ")]
            await _answer(head.split(" ")[1], writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            clients.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    web.url = f"{'https' if tls else 'http'}://{shown}:{port}"
    try:
        yield web
    finally:
        server.close()
        for task in list(clients):
            task.cancel()
        await server.wait_closed()


async def _answer(target: str, writer: asyncio.StreamWriter) -> None:
    path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)

    def head(status: str, *headers: str) -> bytes:
        return "\r\n".join((f"HTTP/1.1 {status}", "connection: close", *headers, "", "")).encode()

    match path:
        case "/image":
            writer.write(head("200 OK", "content-type: image/png", f"content-length: {len(BODY)}") + BODY)
        case "/untyped":
            writer.write(head("200 OK") + BODY)
        case "/page":
            writer.write(head("200 OK", "content-type: text/html; charset=utf-8") + b"<html>")
        case "/empty":
            writer.write(head("200 OK", "content-type: image/png", "content-length: 0"))
        case "/redirect":
            writer.write(head("302 Found", f"location: {query['to'][0]}"))
        case "/loop":
            writer.write(head("302 Found", "location: /loop"))
        case "/compressed":
            writer.write(head("200 OK", "content-type: image/png", "content-encoding: gzip") + b"\x1f\x8b")
        case "/large":
            writer.write(head("200 OK", "content-type: image/png", "content-length: 100000000"))
        case "/endless":
            writer.write(head("200 OK", "content-type: image/png"))
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        case "/stall":
            writer.write(head("200 OK", "content-type: image/png", "content-length: 10") + b"12")
            await asyncio.Event().wait()
        case "/silent":
            await asyncio.Event().wait()
        case "/trickle":
            writer.write(head("200 OK", "content-type: image/png"))
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        case "/reset":
            writer.transport.abort()
            return
        case "/cookie":
            writer.write(head("200 OK", "set-cookie: a=b", f"content-length: {len(BODY)}") + BODY)
        case _:
            writer.write(head("404 Not Found", "content-length: 0"))
    await writer.drain()
