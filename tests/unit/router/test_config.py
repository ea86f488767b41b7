from __future__ import annotations

import pytest

from common.config import ConfigError, parse
from router.config import RouterConfig


def test_options() -> None:
    config = parse(RouterConfig, "router", ["--encode", "a:1", "b:2", "--api-key", "secret", "--port", "0"], {})
    assert config.encode == ("a:1", "b:2")
    assert "secret" not in repr(config)
    for argv in (
        ["--port", "70000"],
        ["--media-timeout-seconds", "0"],
        ["--max-requests", "0"],
        ["--encode", "nowhere"],
        ["--request-timeout-seconds", "nan"],
        ["--request-timeout-seconds", "inf"],
        ["--failover-seconds", "-1"],
        ["--drain-seconds", "inf"],
        ["--max-images", "-1"],
        ["--workers", "0"],
        ["--chat-template", "/no/such/file"],
        ["--reasoning", "on"],
        ["--max-header-bytes", "0"],
        ["--cors-origins", "example.org"],
        ["--cors-origins", "https://example.org/"],
        ["--allowed-local-media-path", "/no/such/folder"],
    ):
        with pytest.raises(ConfigError):
            parse(RouterConfig, "router", argv, {})
