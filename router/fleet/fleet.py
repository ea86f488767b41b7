"""All servers together: which model they serve, and whether requests would succeed."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import grpc

from common.errors import ModelMismatchError, UnavailableError
from common.logs import RateLimitedLog
from common.media_key import PROCESSOR_VERSION
from common.pb import common_pb2, language_pb2, language_pb2_grpc
from router.config import RouterConfig
from router.fleet.pool import Pool, choose
from router.fleet.servers import EncodeServer, LanguageServer, Server
from router.model import ServedModel

log = logging.getLogger(__name__)

_FILES_TIMEOUT_S = 60.0
_MAX_FILES_BYTES = 256 << 20
_WAIT_STEP_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What would succeed now, and what is waited for."""

    text: bool
    image: bool  # also true where the model has no vision, when text is
    waiting_for: tuple[str, ...]


class Fleet:
    """The language and encode servers of this router, and the model that they have in common.

    The first language server to come decides on the model; whoever holds another one is refused, as the log says.
    """

    def __init__(self, config: RouterConfig) -> None:
        handles = itertools.count(1)
        self._config = config
        self._model_lock = asyncio.Lock()
        self.warn = RateLimitedLog(log)
        self.model: ServedModel | None = None
        self.language: Pool[LanguageServer] = Pool(
            config.language,
            lambda address: LanguageServer(
                "language",
                address,
                interval=config.health_interval_seconds,
                timeout=config.health_timeout_seconds,
                check=self._check_language,
                handles=handles,
            ),
            interval=config.resolve_interval_seconds,
        )
        self.encode: Pool[EncodeServer] = Pool(
            config.encode,
            lambda address: EncodeServer(
                "encode",
                address,
                interval=config.health_interval_seconds,
                timeout=config.health_timeout_seconds,
                check=self._check_encode,
            ),
            interval=config.resolve_interval_seconds,
        )

    async def run(self) -> None:
        """Keeps in touch with all servers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.language.run())
            tasks.create_task(self.encode.run())

    # -- what is there -----------------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        text = self.model is not None and bool(self.language.ready())
        image = text and (not self.has_vision or bool(self.encode.ready()))
        waiting = []
        for pool, role, is_missing in (
            (self.language, "language", not text),
            (self.encode, "encode", self.model is None or (self.has_vision and not self.encode.ready())),
        ):
            if is_missing:
                troubles = [server.trouble for server in pool.servers.values() if server.trouble]
                waiting += [*troubles, *pool.unresolved.values()] or [pool.nobody(role)]
        return Readiness(text=text, image=image, waiting_for=tuple(waiting))

    @property
    def has_vision(self) -> bool:
        return self.model is not None and self.model.media_tokens is not None

    @property
    def max_model_len(self) -> int:
        """Of the smallest language server, so that a request can go on at any of them."""
        return min(info.max_model_len for info in self._language_infos())

    @property
    def max_item_rows(self) -> int:
        return min(info.max_item_rows for info in self._language_infos())

    def _language_infos(self) -> list[common_pb2.ModelInfo]:
        assert self.model is not None
        return [server.info for server in self.language.ready() if server.info is not None] or [self.model.info]

    @property
    def processor_version(self) -> int:
        """Of most encode servers: it is part of the media keys, so during an upgrade only these are used."""
        versions = Counter(server.info.processor_version for server in self.encode.ready() if server.info is not None)
        return max(versions, key=lambda version: (versions[version], version), default=PROCESSOR_VERSION)

    def obstacle(self, server: Server) -> str:
        """Why nothing new goes to a server of this fleet; "" if something may."""
        if server.obstacle or not isinstance(server, EncodeServer) or self._fit_for_media(pin=server):
            return server.obstacle
        theirs = server.info.processor_version if server.info is not None else 0
        return f"{server} has version {theirs} of media processing, most encode servers have {self.processor_version}"

    def _fit_for_media(
        self, avoid: Collection[EncodeServer] = (), pin: EncodeServer | None = None
    ) -> list[EncodeServer]:
        version = self.processor_version
        return [
            server
            for server in self.encode.ready(avoid, pin)
            if server.info is not None and server.info.processor_version == version
        ]

    # -- choice: among all servers, or the one that a request is pinned to ---------------------------------------------

    def choose_language(
        self, affinity: bytes, avoid: Collection[LanguageServer] = (), pin: LanguageServer | None = None
    ) -> LanguageServer | None:
        """The ready server for a conversation that begins with `affinity`; None if there is none."""
        servers = self.language.ready(avoid, pin)
        if not servers:
            return None
        # What this router has sent may not be in the server's report yet.
        return choose(servers, affinity, lambda server: max(_requests(server.load), _in_session(server)), slack=2.0)

    def choose_encode(
        self, key: bytes, avoid: Collection[EncodeServer] = (), pin: EncodeServer | None = None
    ) -> EncodeServer | None:
        """The ready server for a media item; None if there is none."""
        servers = self._fit_for_media(avoid, pin)
        return choose(servers, key, lambda server: server.load.queue_seconds, slack=0.5) if servers else None

    async def wait_for_encode(self, key: bytes, avoid: Collection[EncodeServer] = ()) -> EncodeServer | None:
        """As `choose_encode`, but gives a server `failover_seconds` to come; one to avoid is better than none."""
        deadline = asyncio.get_running_loop().time() + self._config.failover_seconds
        while (server := self.choose_encode(key, avoid) or self.choose_encode(key)) is None:
            if asyncio.get_running_loop().time() >= deadline:
                return None
            await asyncio.sleep(_WAIT_STEP_S)
        return server

    # -- models ------------------------------------------------------------------------------------------------------

    async def _check_language(self, server: Server) -> None:
        assert server.info is not None
        assert server.channel is not None
        async with self._model_lock:
            if self.model is None:
                self.model = await _load_model(
                    server.info, server.channel, str(server), self._config.chat_template, self.warn
                )
                log.info("%s serves %s (fingerprint %s)", server, server.info.architecture, _short(server.info))
        _compare(self.model.info, server)

    async def _check_encode(self, server: Server) -> None:
        if self.model is None:
            # Before any language server there is nothing to compare with: it is looked at again in a moment.
            raise UnavailableError(f"{server} waits for a language server, whose model it has to match")
        _compare(self.model.info, server)


def _requests(load: common_pb2.Load) -> float:
    return load.running + load.waiting


def _in_session(server: LanguageServer) -> float:
    return len(server.session) if server.session is not None else 0


def _short(info: common_pb2.ModelInfo) -> str:
    return info.fingerprint.hex()[:12]


def _compare(ours: common_pb2.ModelInfo, server: Server) -> None:
    """Raises ModelMismatchError if the two can't work together."""
    theirs = server.info
    assert theirs is not None
    if theirs.fingerprint != ours.fingerprint:
        raise ModelMismatchError(
            f"{server} holds another model: fingerprint {_short(theirs)}, the first language server's is {_short(ours)}"
        )
    for name in ("hidden", "levels", "dtype"):
        if ours.vision and getattr(theirs, name) != getattr(ours, name):
            here, there = (_told(name, getattr(info, name)) for info in (theirs, ours))
            raise ModelMismatchError(f"{server} has {name} {here}, the first language server {there}")


def _told(name: str, value: int) -> str:
    return common_pb2.DType.Name(common_pb2.DType.ValueType(value)).lower() if name == "dtype" else str(value)


async def _load_model(
    info: common_pb2.ModelInfo,
    channel: grpc.aio.Channel,
    peer: str,
    chat_template: Path | None,
    warn: RateLimitedLog,
) -> ServedModel:
    """`chat_template`: a file that takes the place of the model's own."""
    files: dict[str, bytearray] = {}
    finished: set[str] = set()
    size = 0
    stub = language_pb2_grpc.LanguageServiceStub(channel)
    async for chunk in stub.GetModelFiles(language_pb2.GetModelFilesRequest(), timeout=_FILES_TIMEOUT_S):
        files.setdefault(chunk.name, bytearray()).extend(chunk.data)
        size += len(chunk.data)
        if size > _MAX_FILES_BYTES:
            raise UnavailableError(f"{peer} sends model files of over {_MAX_FILES_BYTES} bytes")
        if chunk.last:
            finished.add(chunk.name)
    if finished != files.keys():
        raise UnavailableError(f"{peer} did not send all of {', '.join(sorted(files.keys() - finished))}")

    def build() -> ServedModel:
        contents = {name: bytes(content) for name, content in files.items()}
        if chat_template is not None:
            contents["chat_template.jinja"] = chat_template.read_bytes()
        return ServedModel.build(info, contents)

    try:
        return await asyncio.to_thread(build)
    except ValueError as error:
        raise ModelMismatchError(f"the model of {peer} can't be used: {error}") from None
    except Exception as error:  # noqa: BLE001  files can be odd in more ways than anyone checks for
        warn.error("files", "the model files of %s", peer, trace=error)
        raise ModelMismatchError(f"the model of {peer} can't be used: {error!r}") from None
