from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from language_server.engine.token_counts import TokenCounts

TOKENS = st.lists(st.integers(0, 20))


@settings(deadline=None)
@given(TOKENS, TOKENS)
def test_it_counts_the_output_and_knows_the_prompt(prompt: list[int], output: list[int]) -> None:
    counts = TokenCounts(prompt, max_outputs=len(output))
    for token in output:
        counts.add(token)
    found = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert len(found) == len(counts.ids)
    assert found == {**dict.fromkeys(prompt, 0), **Counter(output)}
