from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InvalidRequestError
from common.media_key import media_digest
from common.rpc import CHUNK_BYTES
from encode_server.uploads import Upload


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_chunks_need_not_know_where_a_part_ends(parts: list[bytes], step: int) -> None:
    upload = Upload(sizes=[len(part) for part in parts], digest=media_digest(parts))
    whole = b"".join(parts)
    for start in range(0, len(whole), step):
        assert not upload.complete
        upload.add(whole[start : start + step])
    assert upload.complete
    assert list(upload.parts()) == parts


@pytest.mark.parametrize("chunk", [b"", bytes(CHUNK_BYTES + 1)])
def test_a_chunk_has_1_byte_to_1_mib(chunk: bytes) -> None:
    upload = Upload(sizes=[10 * CHUNK_BYTES], digest=bytes(32))
    with pytest.raises(InvalidRequestError, match="a chunk of"):
        upload.add(chunk)


def test_more_than_announced_is_refused_before_it_is_kept() -> None:
    upload = Upload(sizes=[3, 4], digest=bytes(32))
    upload.add(b"abcdef")
    with pytest.raises(InvalidRequestError, match="more media bytes than the 7"):
        upload.add(b"gh")


@pytest.mark.parametrize("sizes", [[3, 3], [2, 4], [6]])
def test_other_bytes_or_other_cuts_are_not_what_was_announced(sizes: list[int]) -> None:
    upload = Upload(sizes=sizes, digest=media_digest([b"abc", b"dex"]))
    upload.add(b"abcdef")
    with pytest.raises(InvalidRequestError, match="digest"):
        upload.parts()
