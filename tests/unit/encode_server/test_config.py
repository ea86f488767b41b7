from __future__ import annotations

import pytest

from common.config import ConfigError, parse
from encode_server.config import EncodeConfig, memory_bytes


def test_sizes_that_nobody_gave_are_computed() -> None:
    config = parse(EncodeConfig, "encode", ["--model", "m"], {})
    assert 0 < config.cache_bytes <= min(4 << 30, memory_bytes() // 8)
    assert config.workers >= 1
    assert config.batch_patches("cuda") > config.batch_patches("cpu") > 0


def test_given_sizes_are_kept() -> None:
    argv = ["--model", "m", "--encode-cache-bytes", "8MiB", "--preprocess-threads", "3"]
    config = parse(EncodeConfig, "encode", argv, {})
    assert (config.cache_bytes, config.workers) == (8 << 20, 3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--max-waiting-items", "0"], "--max-waiting-items must be positive"),
        (["--max-batch-patches", "-1"], "--max-batch-patches must not be negative"),
        (["--drain-seconds", "-1"], "--drain-seconds must not be negative"),
        (["--max-item-bytes", "2GiB"], "could never be taken"),
        (["--ship-levels", "sometimes"], "sometimes"),
        (["--transport", "pigeon"], "pigeon"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(argv: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(EncodeConfig, "encode", ["--model", "m", *argv], {})
