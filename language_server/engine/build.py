"""From a checkpoint and sizes to an engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from common.embeddings import EmbeddingLayout
from common.models.config import ModelConfig, load_config
from common.models.weights import load_language
from common.pb import common_pb2 as pb
from common.rpc import PROTOCOL_VERSION
from common.tensors import dtype_to_wire, resolve_device, torch_dtype
from language_server.engine.arena import Arena
from language_server.engine.engine import Engine, EngineConfig
from language_server.engine.grammar_compiler import GrammarCompiler
from language_server.engine.grammar_masks import GrammarMasks
from language_server.engine.kv_cache import KVCache, KVCacheShape
from language_server.engine.limits import Limits
from language_server.engine.model_runner import ModelRunner
from language_server.engine.options import EngineOptions
from language_server.engine.sampler import Sampler
from language_server.engine.sizes import GIB, available_bytes

log = logging.getLogger(__name__)


def build_engine(
    options: EngineOptions, arena: Arena, *, wake: Callable[[], None] = lambda: None
) -> tuple[Engine, pb.ModelInfo]:
    """Loads the language tensors of the checkpoint and allocates the KV cache.

    Args:
        wake: called from any thread when an idle engine has something to do again.

    Returns:
        The engine, and what is to be told about the model; all but its fingerprint.

    Raises:
        ValueError: a checkpoint that can't be served, or sizes that don't fit together.
    """
    model_dir = Path(options.model_dir)
    config = load_config(model_dir)
    dtype = torch_dtype(config.dtype if options.dtype == "auto" else options.dtype)
    device = resolve_device(options.device)
    model = load_language(model_dir, dtype=dtype, device=device)

    text = config.text
    shape = KVCacheShape(
        layers=text.num_layers,
        block_size=options.block_size,
        kv_heads=text.num_kv_heads,
        head_dim=text.head_dim,
        dtype=dtype,
    )
    wanted = options.kv_cache_bytes or _default_kv_cache_bytes(device, options.gpu_memory_fraction)
    # More than every request at full length can't be used.
    most = options.max_num_seqs * -(-(options.max_model_len or text.max_position_embeddings) // options.block_size)
    num_blocks = min(wanted // shape.block_bytes, most)
    if num_blocks < 2:
        raise ValueError(f"{wanted} bytes of KV cache hold no two blocks of {shape.block_bytes} bytes")
    limits = _limits(options, config, dtype, num_blocks, arena)
    layout = _layout(config, dtype, rows=1)
    log.info(
        "KV cache: %d blocks of %d tokens, %.1f MiB; context %d tokens; media items of up to %d visual tokens",
        num_blocks,
        options.block_size,
        num_blocks * shape.block_bytes / 2**20,
        limits.max_model_len,
        limits.max_item_rows,
    )
    masks = GrammarMasks(max_rows=options.max_num_seqs, vocab_size=limits.vocab_size, device=device)
    runner = ModelRunner(
        model,
        kv_cache=KVCache(shape, num_blocks=num_blocks, device=device),
        block_size=options.block_size,
        sampler=Sampler(banned=limits.placeholder_ids, masks=masks, device=device),
        masks=masks,
        device=device,
    )
    engine_config = EngineConfig(
        limits=limits,
        layout=layout,
        num_blocks=num_blocks,
        block_size=options.block_size,
        max_num_seqs=min(options.max_num_seqs, options.max_step_tokens),
        max_step_tokens=options.max_step_tokens,
        max_waiting=options.max_waiting,
        prefix_caching=options.prefix_caching,
    )
    info = pb.ModelInfo(
        architecture=config.architecture,
        hidden=text.hidden_size,
        levels=config.levels,
        dtype=dtype_to_wire(dtype),
        protocol=PROTOCOL_VERSION,
        merge_size=limits.merge_size,
        vision=config.vision is not None,
        max_model_len=limits.max_model_len,
        max_item_rows=limits.max_item_rows,
        vocab_size=limits.vocab_size,
    )
    grammars = _grammar_compiler(model_dir, limits, wake)
    return Engine(engine_config, runner=runner, arena=arena, grammars=grammars), info


def _grammar_compiler(model_dir: Path, limits: Limits, wake: Callable[[], None]) -> GrammarCompiler | None:
    tokenizer = model_dir / "tokenizer.json"
    if not tokenizer.is_file():
        return None
    return GrammarCompiler(tokenizer, vocab_size=limits.vocab_size, eos_ids=limits.eos_ids, wake=wake)


def _limits(options: EngineOptions, config: ModelConfig, dtype: torch.dtype, num_blocks: int, arena: Arena) -> Limits:
    longest = min(config.text.max_position_embeddings, num_blocks * options.block_size)
    if options.max_model_len > longest:
        raise ValueError(
            f"a context of {options.max_model_len} tokens was asked for; the model and the KV cache allow {longest}"
        )
    row = _layout(config, dtype, rows=1)
    if row and row.total_bytes > arena.size:
        raise ValueError(f"an inbox of {arena.size} bytes holds no visual token of {row.total_bytes}")
    return Limits(
        vocab_size=config.text.vocab_size,
        max_model_len=options.max_model_len or longest,
        max_item_rows=arena.size // row.total_bytes if row else 0,
        merge_size=config.vision.merge_size if config.vision else 1,
        placeholder_ids=frozenset(
            token for token in (config.image_token_id, config.video_token_id) if token is not None
        ),
        eos_ids=_eos_ids(Path(options.model_dir), config.text.vocab_size),
    )


def _layout(config: ModelConfig, dtype: torch.dtype, *, rows: int) -> EmbeddingLayout | None:
    if config.vision is None:
        return None
    return EmbeddingLayout(rows=rows, hidden=config.text.hidden_size, levels=config.levels, dtype=dtype_to_wire(dtype))


def _eos_ids(model_dir: Path, vocab_size: int) -> frozenset[int]:
    """The ids that end a text: generation_config.json's, else config.json's.

    Raises:
        ValueError: they are no ids of the vocabulary.
    """
    for name in ("generation_config.json", "config.json"):
        path = model_dir / name
        if not path.is_file():
            continue
        raw = json.loads(path.read_text())
        found = raw.get("eos_token_id", raw.get("text_config", {}).get("eos_token_id"))
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(isinstance(token, int) and 0 <= token < vocab_size for token in ids):
            raise ValueError(f"{name}: eos_token_id {found} is not in the vocabulary of {vocab_size}")
        return frozenset(ids)
    return frozenset()


def _default_kv_cache_bytes(device: torch.device, gpu_memory_fraction: float) -> int:
    """On a GPU what `gpu_memory_fraction` of its memory leaves beside what is allocated already; else a quarter of
    the available memory, 4 GiB at most. Called after the weights are loaded."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * gpu_memory_fraction) - (total - free))
    return min(4 * GIB, available_bytes() // 4)
