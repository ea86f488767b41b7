"""What a request has to be; each fault has its own clear error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import ContextLengthError, InvalidRequestError
from common.pb import common_pb2
from common.pb import language_pb2 as pb
from language_server.engine.admission import Admission
from language_server.engine.limits import Limits

PAD = 90
LIMITS = Limits(
    vocab_size=100,
    max_model_len=32,
    max_item_rows=8,
    merge_size=2,
    placeholder_ids=frozenset([PAD]),
    eos_ids=frozenset([2]),
)


def generate() -> pb.Generate:
    span = pb.Span(key=b"k" * 32, rows=6, token_offset=2, grid=common_pb2.Grid(t=1, h=4, w=6), item_rows=6)
    return pb.Generate(
        handle=1,
        prompt_ids=[1, 3, *[PAD] * 6, 4],
        spans=[span],
        sampling=pb.SamplingParams(max_tokens=10, stop_token_ids=[7]),
    )


def test_a_sound_request_is_admitted() -> None:
    admission = Admission(LIMITS)
    first, second = admission.admit(generate()), admission.admit(generate())
    assert first.arrival < second.arrival
    assert first.sampling.stop_token_ids == {2, 7}
    assert first.position_delta == (2 + 3 + 1) - 9  # two texts, an image of 2 x 3, a text
    ignoring = generate()
    ignoring.sampling.ignore_eos = True
    assert admission.admit(ignoring).sampling.stop_token_ids == {7}


def _ids(request: pb.Generate, ids: list[int]) -> None:
    del request.prompt_ids[:]
    request.prompt_ids.extend(ids)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: _ids(g, []), "empty"),
        (lambda g: _ids(g, [100]), "outside the vocabulary"),
        (lambda g: g.resumed_output_ids.append(100), "outside the vocabulary"),
        (lambda g: g.sampling.stop_token_ids.append(100), "outside the vocabulary"),
        (lambda g: setattr(g.sampling, "max_tokens", 0), "max_tokens"),
        (lambda g: setattr(g.sampling, "temperature", float("nan")), "temperature"),
        (lambda g: setattr(g.sampling, "temperature", -1.0), "temperature"),
        (lambda g: setattr(g.sampling, "top_p", 1.5), "top_p"),
        (lambda g: setattr(g.sampling, "min_p", float("inf")), "min_p"),
        (lambda g: g.resumed_output_ids.extend([3] * 10), "resumed"),
        (lambda g: setattr(g, "deadline_seconds", float("inf")), "deadline"),
        (lambda g: setattr(g.spans[0], "key", b"short"), "media key"),
        (lambda g: setattr(g.spans[0], "row_offset", 1), "a span of 6 rows from row 1 of 6"),
        (lambda g: setattr(g.spans[0], "token_offset", 4), "a span of 6 rows"),
        (lambda g: setattr(g.spans[0], "token_offset", 1), "token 1 is a visual placeholder"),
        (lambda g: g.ClearField("spans"), "token 2 is a visual placeholder"),
        (lambda g: setattr(g.spans[0], "item_rows", 9), "holds up to 8"),
        (lambda g: setattr(g.spans[0].grid, "h", 6), "makes 9 after the merge"),
        (lambda g: g.spans.append(g.spans[0]), "after token"),
    ],
)
def test_each_fault_has_its_error(spoil: Callable[[pb.Generate], None], message: str) -> None:
    request = generate()
    spoil(request)
    with pytest.raises(InvalidRequestError, match=message):
        Admission(LIMITS).admit(request)


def test_too_long_is_an_error_of_its_own() -> None:
    request = generate()
    request.sampling.max_tokens = 24
    with pytest.raises(ContextLengthError, match=r"maximum context length is 32 tokens.*9 prompt tokens"):
        Admission(LIMITS).admit(request)
    request.sampling.max_tokens = 23
    Admission(LIMITS).admit(request)


def test_a_text_only_checkpoint_takes_no_spans() -> None:
    limits = Limits(
        vocab_size=100,
        max_model_len=32,
        max_item_rows=0,
        merge_size=1,
        placeholder_ids=frozenset(),
        eos_ids=frozenset(),
    )
    with pytest.raises(InvalidRequestError, match="no vision"):
        Admission(limits).admit(generate())
