"""One request of a fake language server: checked like a real one, answered by script."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from common.errors import ContextLengthError, InvalidRequestError
from common.media_key import MediaKey
from common.models.config import ModelConfig, load_config
from common.pb import common_pb2
from common.pb import language_pb2 as pb
from language_server.fake_script import Script, default_answer


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """What a fake language server knows of the checkpoint."""

    config: ModelConfig
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    max_model_len: int
    max_item_rows: int

    @staticmethod
    def eos_of(model_dir: Path, tokenizer: Tokenizer, ids: int | Sequence[int] | None) -> frozenset[int]:
        """From generation_config.json's `eos_token_id`.

        Raises:
            ValueError: there is none, so that no answer could end.
        """
        eos = frozenset([ids] if isinstance(ids, int) else ids or ())
        if not eos:
            raise ValueError(f"{model_dir}/generation_config.json names no eos_token_id")
        return eos
