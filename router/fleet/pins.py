"""The servers that a request has to go through."""

from __future__ import annotations

from dataclasses import dataclass

from router.fleet.servers import EncodeServer, LanguageServer


@dataclass(frozen=True, kw_only=True)
class Pins:
    """None: whichever the router chooses. What is pinned has no stand-in: if the server fails, so does the request."""

    encode: EncodeServer | None = None
    language: LanguageServer | None = None
