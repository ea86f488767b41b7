from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from common.config import ConfigError
from common.media_key import tenant_salt
from router.http.auth import Keys
from router.problems import Problem


def as_sent(key: str) -> str:
    """Bytes of a header field as ASGI decodes them."""
    return key.encode().decode("latin-1")


def test_keys() -> None:
    assert Keys().salt({}) == b""
    keys = Keys(("one", "schlüssel"))
    for value in ("Bearer one", "bearer  one"):
        assert keys.salt({"authorization": value}) == tenant_salt("one")
    assert keys.salt({"x-api-key": "one"}) == tenant_salt("one")
    assert keys.salt({"authorization": "Bearer " + as_sent("schlüssel")}) == tenant_salt("schlüssel")
    # clients of two APIs at once: one good key is enough
    assert keys.salt({"authorization": "Bearer nothing", "x-api-key": "one"}) == tenant_salt("one")
    for value in ("", "Bearer", "Bearer ", "Bearer two", "Basic one", "one", "Bearer one two", "Bearer ON"):
        with pytest.raises(Problem) as refused:
            keys.salt({"authorization": value})
        assert refused.value.status == 401
    for headers in ({}, {"x-api-key": ""}, {"x-api-key": "Bearer one"}):
        with pytest.raises(Problem):
            keys.salt(headers)


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time, and all of them, whichever it is."""
    compared: list[bytes] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return given == known

    monkeypatch.setattr("hmac.compare_digest", compare)
    keys = Keys(("one", "two", "three"))
    for key in ("one", "three", "four"):
        compared.clear()
        with contextlib.suppress(Problem):
            keys.salt({"x-api-key": key})
        assert len(set(compared)) == 3
        assert {len(digest) for digest in compared} == {32}


def test_key_files(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# comment\n\n one \ntwo\n", encoding="utf-8")
    keys = Keys(("three",), tmp_path / "keys")
    assert len({keys.salt({"x-api-key": key}) for key in ("one", "two", "three")}) == 3
    with pytest.raises(ConfigError, match="can't read"):
        Keys(file=tmp_path / "missing")
    (tmp_path / "empty").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="no key"):
        Keys(file=tmp_path / "empty")
