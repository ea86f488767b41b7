from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from language_server.fake_logprobs import fake_logprobs

VOCAB = 50


@settings(deadline=None)
@given(st.integers(0, VOCAB - 1), st.integers(0, 100))
def test_they_are_well_formed(token: int, top: int) -> None:
    told = fake_logprobs(token, top=top, vocab_size=VOCAB)
    assert told == fake_logprobs(token, top=top, vocab_size=VOCAB)
    values = list(told.top_logprobs)
    assert len(told.top_ids) == len(set(told.top_ids)) == len(values) == min(top, VOCAB)
    assert values == sorted(values, reverse=True)
    assert sum(map(math.exp, values)) < 1
    if told.rank <= top:
        assert told.top_ids[told.rank - 1] == token
        assert values[told.rank - 1] == told.logprob
    else:
        assert token not in told.top_ids
        assert all(value > told.logprob for value in values)
