"""The text MoE decoder stack that Qwen3's builds on. No deepstack here, not even a parameter."""

from __future__ import annotations

from torch import nn

from common.models.attention import Attention
from common.models.config import TextConfig
from common.models.decoder import Decoder, DecoderLayer
from common.models.layers import GatedMLP
from common.models.moe import SparseMoE


class Qwen2MoeModel(Decoder):
    """Decoder layers with a sparse MLP, dense where the config says so."""

    def make_layer(self, config: TextConfig, index: int) -> DecoderLayer:
        assert config.moe is not None
        mlp: nn.Module
        if config.moe.sparse_layers[index]:
            mlp = SparseMoE(config.moe, config.hidden_size)
        else:
            mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        return DecoderLayer(config, self.make_attention(config), mlp)

    def make_attention(self, config: TextConfig) -> Attention:
        return Attention(config)
