from __future__ import annotations

import socket

import pytest

from common.transport.address import advertised, is_loopback, join, resolve, resolve_all


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("::", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        ("127.0.0.1:0", "", "127.0.0.1:7"),
        ("[::1]:0", "", "[::1]:7"),
        ("0.0.0.0:9003", "gpu-1", "gpu-1:7"),
        ("0.0.0.0:9003", "gpu-1:30003", "gpu-1:30003"),
        ("0.0.0.0:9003", "gpu-1:0", "gpu-1:7"),
        (":9003", "fd00::1", "[fd00::1]:7"),
        (":9003", "[fd00::1]", "[fd00::1]:7"),
        (":9003", "[fd00::1]:30003", "[fd00::1]:30003"),
    ],
)
def test_advertised(listen: str, advertise: str, expected: str) -> None:
    assert advertised(listen, advertise, 7) == expected


@pytest.mark.parametrize("listen", ["0.0.0.0:9003", ":9003", "[::]:9003"])
def test_nobody_can_connect_to_every_interface(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's name has an address; many machines' own name has only loopback."""
    for name in ("localhost", "no-such-name.invalid"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        with pytest.raises(ValueError, match="needs an address to advertise"):
            advertised(listen, "", 9003)
    monkeypatch.setattr(socket, "gethostname", lambda: "172.18.0.4")
    assert advertised(listen, "", 9003) == "172.18.0.4:9003"


def test_join_and_resolve() -> None:
    assert (join("a", 1), join("::1", 1)) == ("a:1", "[::1]:1")
    assert (resolve("127.0.0.1"), resolve("::1")) == ("127.0.0.1", "::1")


async def test_resolve_all() -> None:
    assert await resolve_all("127.0.0.1:9001") == ["127.0.0.1:9001"]
    assert await resolve_all("[::1]:9001") == ["[::1]:9001"]
    assert "127.0.0.1:9001" in await resolve_all("localhost:9001")
    with pytest.raises(OSError):
        await resolve_all("no-such-host.invalid:1")
