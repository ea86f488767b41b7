from __future__ import annotations

from pathlib import Path

import pytest

from common.config import ConfigError
from common.media_key import tenant_salt
from router.http.auth import Keys
from router.problems import Problem


def test_keys() -> None:
    assert Keys().salt(None) == b""
    keys = Keys(("one",))
    assert keys.salt("Bearer one") == tenant_salt("one")
    assert keys.salt("bearer  one") == tenant_salt("one")
    for header in (None, "", "Bearer", "Bearer ", "Bearer two", "Basic one"):
        with pytest.raises(Problem) as refused:
            keys.salt(header)
        assert refused.value.status == 401


def test_key_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        Keys(file=tmp_path / "missing")
    (tmp_path / "empty").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="no key"):
        Keys(file=tmp_path / "empty")
