"""Pieces of a rendered conversation to token ids, with every placeholder expanded to the rows of its media item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from common.errors import InvalidRequestError
from common.pb import common_pb2, language_pb2
from common.processing import timestamp_text
from router.prompt.template import Piece


@dataclass(frozen=True, kw_only=True)
class MediaTokens:
    """Ids of the tokens that stand for media."""

    image: int
    video: int
    vision_start: int
    vision_end: int


@dataclass(frozen=True, kw_only=True)
class PlacedItem:
    """A media item as the prompt shows it."""

    key: bytes
    metadata: common_pb2.MediaMetadata


@dataclass(frozen=True, kw_only=True)
class Prompt:
    ids: list[int]
    spans: list[language_pb2.Span]


def expand(
    pieces: Sequence[Piece],
    *,
    images: Sequence[PlacedItem],
    videos: Sequence[PlacedItem],
    tokens: MediaTokens | None,
    tokenize: Callable[[str], list[int]],
) -> Prompt:
    """Token ids and spans of a conversation.

    An image's placeholder is repeated once a row. A video's becomes, for each temporal patch, the text of its time in
    seconds and then its rows between vision marks of their own (`common.processing.video_placeholder_text` spells it
    out).

    Args:
        pieces: from `ChatTemplate.render`.
        images: in the order of their placeholders.
        videos: likewise.
        tokens: of the model; None for a text-only one.
        tokenize: ids of a text, in which no special token is seen.

    Raises:
        InvalidRequestError: the template shows more or fewer placeholders than there are items.
    """
    ids: list[int] = []
    spans: list[language_pb2.Span] = []
    text: list[str] = []
    waiting = {"image": iter(images), "video": iter(videos)}

    def add(piece: Piece) -> None:
        if isinstance(piece, str):
            text.append(piece)
            return
        if text:
            ids.extend(tokenize("".join(text)))
            text.clear()
        ids.append(piece)

    def add_rows(token: int, item: PlacedItem, grid: common_pb2.Grid, row_offset: int, rows: int) -> None:
        add(token)
        spans.append(
            language_pb2.Span(
                key=item.key,
                row_offset=row_offset,
                rows=rows,
                token_offset=len(ids) - 1,
                grid=grid,
                item_rows=item.metadata.rows,
            )
        )
        ids.extend([token] * (rows - 1))

    for piece in pieces:
        if tokens is None or isinstance(piece, str):
            add(piece)
        elif piece == tokens.image:
            item = _next(waiting["image"], "image")
            add_rows(piece, item, item.metadata.grid, 0, item.metadata.rows)
        elif piece == tokens.video:
            item = _next(waiting["video"], "video")
            for seconds, grid, row_offset, rows in _temporal_patches(item.metadata):
                add(timestamp_text(seconds))
                add(tokens.vision_start)
                add_rows(tokens.video, item, grid, row_offset, rows)
                add(tokens.vision_end)
        else:
            add(piece)
    if text:
        ids.extend(tokenize("".join(text)))
    for kind, rest in waiting.items():
        if next(rest, None) is not None:
            raise InvalidRequestError(
                f"the model's chat template does not show every {kind} (only user messages have them)"
            )
    return Prompt(ids=ids, spans=spans)


def _next(items: Iterator[PlacedItem], kind: str) -> PlacedItem:
    item = next(items, None)
    if item is None:
        raise InvalidRequestError(f"the model's chat template shows more {kind}s than the messages hold")
    return item


def _temporal_patches(
    metadata: common_pb2.MediaMetadata,
) -> Iterable[tuple[float, common_pb2.Grid, int, int]]:
    """(seconds, grid, row offset, rows) of each temporal patch of a video."""
    grid = metadata.grid
    assert len(metadata.timestamps) == grid.t, f"{len(metadata.timestamps)} timestamps for {grid.t} temporal patches"
    assert metadata.rows % grid.t == 0, f"{metadata.rows} rows in {grid.t} temporal patches"
    rows = metadata.rows // grid.t
    patch = common_pb2.Grid(t=1, h=grid.h, w=grid.w)
    for i, seconds in enumerate(metadata.timestamps):
        yield seconds, patch, i * rows, rows
