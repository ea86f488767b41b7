"""What the model and the machine allow a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes that requests are checked against, and the ids that have a meaning."""

    vocab_size: int
    max_model_len: int
    max_item_rows: int  # 0: the checkpoint has no vision
    merge_size: int
    placeholder_ids: frozenset[int]
    eos_ids: frozenset[int]
