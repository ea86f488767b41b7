"""A batched forward over the modules of `transformers`' Qwen3-VL-MoE: equal to its own, several times faster to train.

What makes it fast: pictures of one size go through attention in one call, the patch convolution is a product, tokens
are sorted by expert and each expert runs once, and logits exist only where they are needed.

Legend: B samples, S tokens, P patches of a temporal patch, n visual rows of a sample, L levels, V H hidden sizes of
tower and decoder, T tokens of all samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import (
    Qwen3VLMoeTextAttention,
    Qwen3VLMoeTextDecoderLayer,
    Qwen3VLMoeTextModel,
    Qwen3VLMoeTextRMSNorm,
    Qwen3VLMoeTextSparseMoeBlock,
    Qwen3VLMoeVisionAttention,
    Qwen3VLMoeVisionBlock,
    Qwen3VLMoeVisionModel,
    apply_rotary_pos_emb,
)
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and sines


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What comes out of the decoder.

    Attributes:
        states: `[B, S, H]`, normed.
        halfway: `[B, S, H]`, behind the layer that takes the last deepstack level.
        balance: the load-balance loss of Switch Transformers (arXiv 2101.03961), formula 4, mean over the layers; 1
            when all experts are used alike.
    """

    states: torch.Tensor
    halfway: torch.Tensor
    balance: torch.Tensor


def see(
    visual: Qwen3VLMoeVisionModel, patches_BPD: torch.Tensor, grid_hw: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual rows of B temporal patches of one size.

    Returns:
        main `[B, n, H]` and levels `[L, B, n, H]`.
    """
    merge = visual.config.spatial_merge_size
    grid = torch.tensor([(1, *grid_hw)], device=patches_BPD.device)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=merge,
    )
    places_PV = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    rotation = visual.rotary_pos_emb(patches_BPD, get_vision_position_ids(grid, merge))
    projection = visual.patch_embed.proj
    hidden = F.linear(patches_BPD, projection.weight.flatten(1), projection.bias) + places_PV
    levels = {}
    for index, block in enumerate(visual.blocks):
        assert isinstance(block, Qwen3VLMoeVisionBlock)
        hidden = hidden + _look(block.attn, block.norm1(hidden), rotation)
        hidden = hidden + block.mlp(block.norm2(hidden))
        if index in visual.deepstack_visual_indexes:
            level = visual.deepstack_visual_indexes.index(index)
            levels[level] = visual.deepstack_merger_list[level](hidden)
    samples, rows = hidden.shape[0], hidden.shape[1] // merge**2
    merged = [visual.merger(hidden), *(levels[level] for level in sorted(levels))]
    main, *deep = (rows_H.view(samples, rows, -1) for rows_H in merged)
    return main, torch.stack(deep)


def think(
    decoder: Qwen3VLMoeTextModel,
    ids_BS: torch.Tensor,
    positions_3BS: torch.Tensor,
    mask_BSS: torch.Tensor,
    *,
    main_BnH: torch.Tensor | None,
    levels_LBnH: torch.Tensor | None,
    visual_n: torch.Tensor,
) -> Hidden:
    """Runs the decoder.

    Args:
        decoder: its modules.
        ids_BS: tokens.
        positions_3BS: temporal, height and width.
        mask_BSS: True where a token (second axis) may look at another (third).
        main_BnH: replaces the embeddings of visual rows; None for text alone.
        levels_LBnH: added to those rows after the first L layers.
        visual_n: places of the visual rows, the same ones in all samples.
    """
    hidden = decoder.embed_tokens(ids_BS)
    if main_BnH is not None:
        hidden = hidden.index_copy(1, visual_n, main_BnH)
    rotation = decoder.rotary_emb(hidden, positions_3BS)
    balances = []
    halfway = hidden
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, Qwen3VLMoeTextDecoderLayer)
        hidden = hidden + _attend(layer.self_attn, _norm(layer.input_layernorm, hidden), rotation, mask_BSS[:, None])
        assert isinstance(layer.mlp, Qwen3VLMoeTextSparseMoeBlock), "a layer without experts"
        out, balance = _consult(layer.mlp, _norm(layer.post_attention_layernorm, hidden).flatten(0, 1))
        hidden = hidden + out.view_as(hidden)
        balances.append(balance)
        if levels_LBnH is not None and index < len(levels_LBnH):
            hidden = hidden.index_add(1, visual_n, levels_LBnH[index])
            halfway = hidden
    return Hidden(states=_norm(decoder.norm, hidden), halfway=halfway, balance=torch.stack(balances).mean())


def logits(model: Qwen3VLMoeForConditionalGeneration, states: torch.Tensor) -> torch.Tensor:
    """`[..., vocabulary]` of `[..., H]`."""
    return F.linear(states, model.lm_head.weight)


def _look(attention: Qwen3VLMoeVisionAttention, hidden_BPV: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    samples, patches, size = hidden_BPV.shape
    # three of [B, heads, P, head size]
    qkv = attention.qkv(hidden_BPV).view(samples, patches, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    cos, sin = (part[None] for part in rotation)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    out = F.scaled_dot_product_attention(query, key, value)
    result: torch.Tensor = attention.proj(out.transpose(1, 2).reshape(samples, patches, size))
    return result


def _attend(
    attention: Qwen3VLMoeTextAttention, hidden_BSH: torch.Tensor, rotation: Rotation, mask: torch.Tensor
) -> torch.Tensor:
    shape = (*hidden_BSH.shape[:2], -1, attention.head_dim)
    query = _norm(attention.q_norm, attention.q_proj(hidden_BSH).view(shape)).transpose(1, 2)
    key = _norm(attention.k_norm, attention.k_proj(hidden_BSH).view(shape)).transpose(1, 2)
    value = attention.v_proj(hidden_BSH).view(shape).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *rotation)
    groups = attention.num_key_value_groups
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    result: torch.Tensor = attention.o_proj(out.transpose(1, 2).flatten(2))
    return result


def _consult(block: Qwen3VLMoeTextSparseMoeBlock, hidden_TH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts' answer `[T, H]` and the load-balance loss of this layer."""
    router, experts = block.gate, block.experts
    probabilities = F.linear(hidden_TH, router.weight).softmax(-1)
    top, chosen = probabilities.topk(router.top_k, dim=-1)
    weights = (top / top.sum(-1, keepdim=True)).flatten()
    order = chosen.flatten().argsort(stable=True)
    tokens = order // router.top_k
    counts = chosen.flatten().bincount(minlength=router.num_experts)
    made = []
    for expert, group in enumerate(torch.split(hidden_TH[tokens], counts.tolist())):
        gate, up = F.linear(group, experts.gate_up_proj[expert]).chunk(2, dim=-1)
        made.append(F.linear(F.silu(gate) * up, experts.down_proj[expert]))
    out = torch.zeros_like(hidden_TH).index_add(0, tokens, torch.cat(made) * weights[order, None])
    balance = router.num_experts * (counts / len(order) * probabilities.mean(0)).sum()
    return out, balance


def _norm(norm: Qwen3VLMoeTextRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    weight: nn.Parameter = norm.weight
    return F.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)
