from __future__ import annotations

import pytest

from common.errors import InvalidRequestError
from common.pb import common_pb2
from common.processing import video_placeholder_text
from router.prompt.expansion import MediaTokens, PlacedItem, expand

TOKENS = MediaTokens(image=1000, video=1001, vision_start=1002, vision_end=1003)


def tokenize(text: str) -> list[int]:
    return [ord(character) for character in text]


def image(rows: int) -> PlacedItem:
    grid = common_pb2.Grid(t=1, h=2, w=2 * rows)
    return PlacedItem(key=bytes([rows]) * 32, metadata=common_pb2.MediaMetadata(grid=grid, rows=rows))


def video(rows: int, times: list[float]) -> PlacedItem:
    grid = common_pb2.Grid(t=len(times), h=2, w=2 * rows)
    metadata = common_pb2.MediaMetadata(grid=grid, rows=rows * len(times), timestamps=times)
    return PlacedItem(key=b"v" * 32, metadata=metadata)


def test_images() -> None:
    prompt = expand(["a", 1000, "b", 1000, 7], images=[image(2), image(3)], videos=[], tokens=TOKENS, tokenize=tokenize)
    assert prompt.ids == [97, 1000, 1000, 98, 1000, 1000, 1000, 7]
    assert [(span.token_offset, span.rows, span.row_offset, span.item_rows) for span in prompt.spans] == [
        (1, 2, 0, 2),
        (4, 3, 0, 3),
    ]


def test_a_video_is_what_the_reference_writes() -> None:
    """Token by token what `video_placeholder_text` spells out, which is compared with the reference elsewhere."""
    names = {1001: "<|video_pad|>", 1002: "<|vision_start|>", 1003: "<|vision_end|>"}
    runs: list[str] = []

    def watch(text: str) -> list[int]:
        runs.append(text)
        return tokenize(text)

    pieces: list[str | int] = ["see:", 1002, 1001, 1003, "!"]
    prompt = expand(pieces, images=[], videos=[video(2, [0.25, 1.75])], tokens=TOKENS, tokenize=watch)
    text = "".join(names.get(token) or chr(token) for token in prompt.ids)
    assert text == f"see:<|vision_start|>{video_placeholder_text([0.25, 1.75], 2)}<|vision_end|>!"
    assert runs == ["see:", "<0.2 seconds>", "<1.8 seconds>", "!"]
    first, second = prompt.spans
    assert (first.row_offset, first.rows, second.row_offset, second.rows, second.item_rows) == (0, 2, 2, 2, 4)
    assert (first.grid.t, first.grid.h, first.grid.w) == (1, 2, 4)
    for span in prompt.spans:
        assert prompt.ids[span.token_offset : span.token_offset + span.rows] == [1001] * 2


def test_items_and_placeholders_must_agree() -> None:
    wrong: list[tuple[list[str | int], list[PlacedItem]]]
    wrong = [([1000], []), (["a"], [image(1)]), ([1000], [image(1), image(2)])]
    for pieces, images in wrong:
        with pytest.raises(InvalidRequestError):
            expand(pieces, images=images, videos=[], tokens=TOKENS, tokenize=tokenize)


def test_a_text_model_has_no_placeholders() -> None:
    assert expand(["a", 1000], images=[], videos=[], tokens=None, tokenize=tokenize).ids == [97, 1000]
