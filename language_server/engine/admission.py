"""Whether a `Generate` can be served at all, and what it becomes inside the engine."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

from common.errors import ContextLengthError, InvalidRequestError
from common.models.mrope import mrope_positions
from common.pb import language_pb2 as pb
from language_server.engine.limits import Limits
from language_server.engine.request import Request, Span
from language_server.engine.sampling_params import read_sampling


class Admission:
    """Checks requests and numbers them in order of arrival."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._arrivals = itertools.count()

    def admit(self, generate: pb.Generate) -> Request:
        """The request, not yet scheduled.

        Raises:
            InvalidRequestError: something in it is out of range or does not fit together.
            ContextLengthError: prompt and answer do not fit the model's context.
        """
        prompt_ids = list(generate.prompt_ids)
        resumed = list(generate.resumed_output_ids)
        sampling = read_sampling(generate.sampling, self.limits)
        if len(resumed) >= sampling.max_tokens:
            raise InvalidRequestError(f"{len(resumed)} tokens resumed of an answer of {sampling.max_tokens}")
        self._check_tokens(prompt_ids, resumed)
        if not math.isfinite(generate.deadline_seconds):
            raise InvalidRequestError(f"a deadline in {generate.deadline_seconds} seconds")
        total = len(prompt_ids) + sampling.max_tokens
        if total > self.limits.max_model_len:
            raise ContextLengthError(
                f"This model's maximum context length is {self.limits.max_model_len} tokens. The request has "
                f"{len(prompt_ids)} prompt tokens and asks for up to {sampling.max_tokens} more: {total} in all."
            )
        spans = tuple(_span(span) for span in generate.spans)
        self._check_spans(spans, prompt_ids)
        try:
            positions, delta = mrope_positions(len(prompt_ids), spans, self.limits.merge_size)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        return Request(
            handle=generate.handle,
            request_id=generate.request_id,
            arrival=next(self._arrivals),
            salt=generate.salt,
            prompt_ids=prompt_ids,
            spans=spans,
            sampling=sampling,
            positions=positions,
            position_delta=delta,
            output_ids=resumed,
            resumed=len(resumed),
            deadline=time.monotonic() + generate.deadline_seconds if generate.deadline_seconds > 0 else None,
        )

    def _check_tokens(self, prompt_ids: Sequence[int], resumed: Sequence[int]) -> None:
        if not prompt_ids:
            raise InvalidRequestError("the prompt is empty")
        largest = max(itertools.chain(prompt_ids, resumed))
        if largest >= self.limits.vocab_size:
            raise InvalidRequestError(f"token id {largest} is outside the vocabulary of {self.limits.vocab_size}")

    def _check_spans(self, spans: Sequence[Span], prompt_ids: Sequence[int]) -> None:
        if spans and not self.limits.max_item_rows:
            raise InvalidRequestError("this checkpoint has no vision: it takes no images or videos")
        inside: set[int] = set()
        rows_of: dict[bytes, int] = {}
        for span in spans:
            if len(span.key) != 32:
                raise InvalidRequestError(f"a media key of {len(span.key)} bytes instead of 32")
            if span.rows < 1 or span.end > len(prompt_ids) or span.row_offset + span.rows > span.item_rows:
                raise InvalidRequestError(
                    f"a span of {span.rows} rows from row {span.row_offset} of {span.item_rows}, at token "
                    f"{span.token_offset} of {len(prompt_ids)}"
                )
            if span.item_rows > self.limits.max_item_rows:
                raise InvalidRequestError(
                    f"a media item of {span.item_rows} visual tokens; this server holds up to "
                    f"{self.limits.max_item_rows}"
                )
            if rows_of.setdefault(span.key, span.item_rows) != span.item_rows:
                raise InvalidRequestError("two spans of one item disagree about its rows")
            inside.update(range(span.token_offset, span.end))
        placeholders = {i for i, token in enumerate(prompt_ids) if token in self.limits.placeholder_ids}
        if placeholders != inside:
            stray = min(placeholders ^ inside)
            raise InvalidRequestError(f"token {stray} is a visual placeholder without a span, or a span without one")


def _span(span: pb.Span) -> Span:
    return Span(
        key=span.key,
        row_offset=span.row_offset,
        rows=span.rows,
        token_offset=span.token_offset,
        grid=(span.grid.t, span.grid.h, span.grid.w),
        item_rows=span.item_rows,
    )
