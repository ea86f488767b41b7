from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadMediaError
from router.media import decode_data_uri


@given(st.binary(max_size=200))
def test_all_ways_to_write_it(content: bytes) -> None:
    standard = base64.b64encode(content).decode()
    url_safe = base64.urlsafe_b64encode(content).decode()
    for data in (standard, standard.rstrip("="), url_safe, quote(standard, safe=""), "\n".join(standard)):
        assert decode_data_uri(f"data:image/PNG;base64,{data}", 200) == ("image/png", content)
    assert decode_data_uri(f"data:image/png;name=x;base64,{standard}", 200)[1] == content
    assert decode_data_uri(f"data:,{quote(content)}", 200) == ("", content)


def test_what_is_none() -> None:
    for uri in ("data:image/png;base64", "data:;base64,???", "data:;base64,a", "data:;base64,é"):
        with pytest.raises(BadMediaError):
            decode_data_uri(uri, 100)
    for uri in (f"data:;base64,{base64.b64encode(bytes(101)).decode()}", "data:," + "x" * 101):
        with pytest.raises(BadMediaError, match="100 bytes"):
            decode_data_uri(uri, 100)
