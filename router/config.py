"""What the router can be told."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from common.config import Address, CommonOptions, Size, option

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")  # RFC 6454, as browsers send it


@dataclass(frozen=True, kw_only=True)
class RouterConfig(CommonOptions):
    """OpenAI-style HTTP API in front of encode and language servers."""

    host: str = option("127.0.0.1", help="HTTP: interface to listen on")
    port: int = option(8000, help="HTTP: port to listen on; 0 takes a free one")
    encode: tuple[Address, ...] = option(
        ("127.0.0.1:9001",), help="encode servers: addresses, or DNS names that are resolved again and again"
    )
    language: tuple[Address, ...] = option(("127.0.0.1:9002",), help="language servers, likewise")
    served_model_name: tuple[str, ...] = option(
        (), help="names that requests may use; the first one is shown in answers (default: what the model is called)"
    )
    api_key: tuple[str, ...] = option((), help="keys that open /v1; none: everybody may", secret=True)
    api_key_file: Path | None = option(None, help="file with one key a line")

    workers: int = option(1, help="processes that share the port; limits of this role are those of each")
    max_header_bytes: Size = option(64 << 10, help="largest head of a request: its line and header fields")
    cors_origins: tuple[str, ...] = option(
        (), help="web pages that may call from a browser: https://chat.example.org, or * for all"
    )

    chat_template: Path | None = option(None, help="Jinja file (default: the checkpoint's own)", metavar="FILE.jinja")
    reasoning: Literal["auto", "off"] = option(
        "auto", help="auto: what a model thinks is told apart from its answer, if the tokenizer knows <think>"
    )

    strict_fields: bool = option(False, help="refuse requests with unknown fields, instead of naming these in a header")
    max_requests: int = option(1024, help="requests in progress; more are refused with 429")
    max_choices: int = option(16, help="largest n of a request")
    max_body_bytes: Size = option(256 << 20, help="largest request body")
    request_timeout_seconds: float = option(1800.0, help="a request that takes longer ends with 504")
    body_timeout_seconds: float = option(120.0, help="time in which a request's body must have come")
    keep_alive_seconds: float = option(15.0, help="a stream that is silent for so long gets a comment line")

    max_images: int = option(64, help="images in one request")
    max_videos: int = option(4, help="videos in one request")
    max_video_frames: int = option(768, help="images in a video that is given as a list of frames")
    max_media_bytes: Size = option(128 << 20, help="largest single image or video, as a file")
    media_budget_bytes: Size = option(2 << 30, help="bodies and media held for all requests together")
    media_timeout_seconds: float = option(20.0, help="time to fetch one image or video from its URL")
    media_connect_seconds: float = option(5.0, help="part of it that connecting may take")
    media_stall_seconds: float = option(10.0, help="part of it for which a server may say nothing")
    media_fetches: int = option(32, help="URLs that are fetched at the same time")
    allow_private_media: bool = option(False, help="fetch from loopback, private and link-local addresses too")
    allowed_local_media_path: Path | None = option(
        None, help="folder whose files requests may name as file:///...; none: no files are read", metavar="FOLDER"
    )

    encode_attempts: int = option(3, help="encode servers that are tried for one item")
    encode_answer_seconds: float = option(30.0, help="time in which an encode server must tell an item's size")
    failover_seconds: float = option(10.0, help="how long an interrupted request waits for another server")
    health_interval_seconds: float = option(1.0, help="time between two looks at a server's health")
    health_timeout_seconds: float = option(5.0, help="time for such a look; three in a row without an answer: it hangs")
    resolve_interval_seconds: float = option(10.0, help="time between two look-ups of a DNS name")
    drain_seconds: float = option(30.0, help="SIGTERM: time that running requests get to finish")

    def __post_init__(self) -> None:
        if not self.language:
            raise ValueError("--language: at least one language server is needed")
        if self.chat_template is not None and not self.chat_template.is_file():
            raise ValueError(f"--chat-template {self.chat_template}: there is no such file")
        if self.allowed_local_media_path is not None and not self.allowed_local_media_path.is_dir():
            raise ValueError(f"--allowed-local-media-path {self.allowed_local_media_path}: there is no such folder")
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"--cors-origins {origin}: an origin is https://HOST or http://HOST:PORT, or *")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port {self.port} is out of range")
        for name in ("max_requests", "max_choices", "max_body_bytes", "max_media_bytes", "media_budget_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("workers", "max_header_bytes", "media_fetches", "encode_attempts", "max_video_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"--{field.name.replace('_', '-')} {value} is out of range")
        for name in (
            "request_timeout_seconds",
            "body_timeout_seconds",
            "keep_alive_seconds",
            "media_timeout_seconds",
            "media_connect_seconds",
            "media_stall_seconds",
            "encode_answer_seconds",
            "health_interval_seconds",
            "health_timeout_seconds",
            "resolve_interval_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive")
