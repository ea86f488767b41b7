"""Who may use /v1."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.config import ConfigError
from common.media_key import tenant_salt
from router.problems import Problem


class Keys:
    """The API keys that open the door; without any, everybody may come in. The file is read once, at the start.

    Args:
        keys: from the command line or the environment.
        file: one key a line; empty lines and lines that begin with # do not count.

    Raises:
        ConfigError: the file can't be read or holds no key.
    """

    def __init__(self, keys: tuple[str, ...] = (), file: Path | None = None) -> None:
        listed = list(keys)
        if file is not None:
            try:
                lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--api-key-file: can't read {file}: {error}") from None
            listed += [line for line in lines if line and not line.startswith("#")]
            if not listed:
                raise ConfigError(f"--api-key-file: there is no key in {file}")
        self._salts = {_digest(key.encode()): tenant_salt(key) for key in listed}

    @property
    def needed(self) -> bool:
        return bool(self._salts)

    def salt(self, headers: Mapping[str, str]) -> bytes:
        """The salt of the tenant who sent these headers.

        A key stands in `Authorization: Bearer`, as OpenAI's clients send it, or in `x-api-key`, as Anthropic's do.

        Raises:
            Problem: 401, for anybody else.
        """
        if not self._salts:
            return b""
        given = [_digest(key) for key in _presented(headers)]
        if not given:
            raise Problem(401, "an API key is needed: Authorization: Bearer <key>, or x-api-key: <key>")
        # All are compared, in constant time, and as digests of one length: how long it takes tells nothing about them.
        found = [salt for key in given for known, salt in self._salts.items() if hmac.compare_digest(key, known)]
        if not found:
            raise Problem(401, "the API key is not valid")
        return found[0]


def _presented(headers: Mapping[str, str]) -> Iterator[bytes]:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    for key in (bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")):
        if key.strip():
            yield key.strip().encode("latin-1")  # which ASGI decodes header fields with: these are the bytes as sent


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
