from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

from common.config import parse
from router.config import RouterConfig
from router.listening import listen
from router.supervisor import Worker


def test_workers_get_the_configuration_as_it_is(tmp_path: Path) -> None:
    """Whatever it came from; and nobody else can read the keys in it."""
    given = RouterConfig(
        workers=4,
        host="::1",
        api_key=("se,cret", "#two", 'th"ree\\', "vier ü"),
        served_model_name=("org/model", "other"),
        max_media_bytes=123_456_789,
        request_timeout_seconds=1234.56789,
        allow_private_media=True,
        allowed_local_media_path=tmp_path,
        encode=("10.0.0.1:9001", "[::1]:9001"),
        config=tmp_path / "theirs.toml",
    )
    with listen("127.0.0.1", 0) as listener:
        Worker(2, given, listener, tmp_path)
    file = tmp_path / "worker-2.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = parse(RouterConfig, "router", ["--config", str(file)], {})
    assert read == replace(given, workers=1, state_file=tmp_path / "worker-2.json", config=file)
