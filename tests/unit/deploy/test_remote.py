from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest

from common.config import ConfigError
from deploy.remote import add_key_options, key_headers, printable, router_url, seconds


def headers(*argv: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    add_key_options(parser)
    return key_headers(parser.parse_args(argv), environ or {})


def test_where_the_key_comes_from(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\n\n  first  \nsecond\n")
    environ = {"EPD_ROUTER_API_KEY": "third,fourth"}
    assert headers("--api-key-file", str(tmp_path / "keys"), environ=environ) == {"authorization": "Bearer first"}
    assert headers("--api-key", "given", environ=environ) == {"authorization": "Bearer given"}
    assert headers(environ=environ) == {"authorization": "Bearer third"}
    assert headers() == {}


def test_keys_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    for argv in (["--api-key", ""], ["--api-key", "a\nb"], ["--api-key-file", str(tmp_path / "empty")]):
        with pytest.raises(ConfigError, match="the API key is empty"):
            headers(*argv)
    with pytest.raises(ConfigError, match="can't read"):
        headers("--api-key-file", str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://router:8000/v1", "http://router:8000"),
        ("http://router:8000/v1/", "http://router:8000"),
        ("https://example.org/llm", "https://example.org/llm"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_urls_of_routers(text: str, url: str) -> None:
    assert router_url(text) == url


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8000", "router", "http://", "http://h:port", "ftp://h", "http://h/?a=b", ""]
)
def test_what_is_no_url_of_a_router(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="http://HOST:8000"):
        router_url(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)


def test_what_a_terminal_would_obey_is_shown_as_something_else() -> None:
    assert printable("a\x1b[2Jb\n c\x07") == "a\N{REPLACEMENT CHARACTER}[2Jb c\N{REPLACEMENT CHARACTER}"
