from __future__ import annotations

import base64
import tracemalloc
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadMediaError
from router.media.loader import decode_data_uri


@given(st.binary(max_size=200))
def test_all_ways_to_write_it(content: bytes) -> None:
    standard = base64.b64encode(content).decode()
    url_safe = base64.urlsafe_b64encode(content).decode()
    for data in (standard, standard.rstrip("="), url_safe, quote(standard, safe=""), "\n".join(standard)):
        assert decode_data_uri(f"data:image/PNG;base64,{data}", 200) == ("image/png", content)
    assert decode_data_uri(f"data:image/png;name=x;base64,{standard}", 200)[1] == content
    assert decode_data_uri(f"data:,{quote(content)}", 200) == ("", content)


@given(st.text(alphabet="%4a1", max_size=60), st.integers(65530, 65540))
def test_long_quoted_ones_are_decoded_in_pieces(end: str, length: int) -> None:
    data = "x" * length + end
    assert decode_data_uri(f"data:,{data}", 1 << 20) == ("", unquote_to_bytes(data))


def test_quoted_ones_take_little_memory() -> None:
    uri = "data:," + "%41" * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(BadMediaError, match="1000 bytes"):
            decode_data_uri(uri, 1000)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000, "it is not decoded"
        tracemalloc.reset_peak()
        assert decode_data_uri(uri, 1_000_000)[1] == b"A" * 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_what_is_none() -> None:
    for uri in ("data:image/png;base64", "data:;base64,???", "data:;base64,a", "data:;base64,é"):
        with pytest.raises(BadMediaError):
            decode_data_uri(uri, 100)
    for uri in (f"data:;base64,{base64.b64encode(bytes(101)).decode()}", "data:," + "x" * 101):
        with pytest.raises(BadMediaError, match="100 bytes"):
            decode_data_uri(uri, 100)
