import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.values import KINDS, format_size, parse_address, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("512MiB", 512 << 20),
        ("8GiB", 8 << 30),
        ("8gib", 8 << 30),
        ("8 GiB", 8 << 30),
        ("2GB", 2_000_000_000),
        ("1.5KiB", 1536),
        ("3TiB", 3 << 40),
        ("7B", 7),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "8G", "8 gigs", "1,5GiB", "0x10", "8GiB8GiB"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_shown_size_reads_back(count: int) -> None:
    assert parse_size(format_size(count)) == count


@pytest.mark.parametrize("text", ["127.0.0.1:9001", "encode.example:80", ":9101", "[::1]:8000", "h:0", "a.b.:1"])
def test_addresses(text: str) -> None:
    assert parse_address(text) == text


@pytest.mark.parametrize("text", ["9001", "host", "host:", "host:http", "host:70000", "host:-1"])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("text", ["a..b:9001", ".a:9001", f"{'x' * 64}.example:9001"])
def test_what_nobody_can_look_up(text: str) -> None:
    with pytest.raises(ValueError, match="has no host's name"):
        parse_address(text)


def test_switches() -> None:
    read = KINDS[bool].read
    assert [read(text) for text in ("true", "Yes", "1", "on")] == [True] * 4
    assert [read(text) for text in ("false", "No", "0", "off")] == [False] * 4
    with pytest.raises(ValueError, match="neither true nor false"):
        read("maybe")
