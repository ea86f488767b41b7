from __future__ import annotations

import pytest
import torch

from language_server.engine.logprobs import prompt_logprobs, token_logprobs

LOGITS = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.0, 0.0, 5.0, 0.0], [1.0, 1.0, 1.0, 1.0]])


def test_what_is_told_about_a_token() -> None:
    logprobs = LOGITS.log_softmax(dim=-1)
    first, second, third = token_logprobs(logprobs, [1, 2, 0], [2, 0, 9])
    assert first.logprob == pytest.approx(logprobs[0, 1].item())
    assert (first.rank, list(first.top_ids)) == (3, [3, 0])
    assert list(first.top_logprobs) == pytest.approx([logprobs[0, 3].item(), logprobs[0, 0].item()])
    assert (second.rank, list(second.top_ids)) == (1, [])
    assert third.rank == 1  # equals are no better
    assert sorted(third.top_ids) == [0, 1, 2, 3]  # no more than there are


def test_a_prompt_is_told_in_slices_of_bounded_size() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, 8, generator=generator)
    weight = torch.randn(50, 8, generator=generator)
    sizes = []

    def head(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return rows @ weight.T

    ids = [i % 50 for i in range(150)]
    told = list(prompt_logprobs(hidden, head, ids, 3))
    expected = (hidden[:150] @ weight.T).log_softmax(dim=-1)
    assert max(sizes) <= 64
    assert [token.logprob for token in told] == pytest.approx(expected[range(150), ids].tolist(), abs=1e-5)
    assert [list(token.top_ids) for token in told] == expected.topk(3).indices.tolist()
