"""Who may use /v1."""

from __future__ import annotations

import hmac
from pathlib import Path

from common.config import ConfigError
from common.media_key import tenant_salt
from router.problems import Problem


class Keys:
    """The API keys that open the door; without any, everybody may come in.

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
                lines = [line.strip() for line in file.read_text().splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--api-key-file: can't read {file}: {error}") from None
            listed += [line for line in lines if line and not line.startswith("#")]
            if not listed:
                raise ConfigError(f"--api-key-file: there is no key in {file}")
        self._keys = tuple(key.encode() for key in listed)

    def salt(self, authorization: str | None) -> bytes:
        """The salt of the tenant who sent this Authorization header. Raises Problem (401) for anybody else."""
        if not self._keys:
            return b""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Problem(401, "an API key is needed: Authorization: Bearer <key>")
        given = key.strip().encode()
        # All are compared, in constant time: how long it takes tells nothing about them.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        if True not in matches:
            raise Problem(401, "the API key is not valid")
        return tenant_salt(given.decode())
