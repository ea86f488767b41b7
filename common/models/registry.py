"""Which classes serve which architecture of config.json: one for the language side, one for the whole model."""

from __future__ import annotations

from dataclasses import dataclass

from common.models.qwen3 import Qwen3ForCausalLM, Qwen3ForCausalLMWithDeepStack
from common.models.qwen3_moe import Qwen3MoeForCausalLM, Qwen3MoeForCausalLMWithDeepStack
from common.models.qwen3_vl import Qwen3VLForConditionalGeneration
from common.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration

TextLanguageModel = Qwen3MoeForCausalLM | Qwen3ForCausalLM
DeepStackLanguageModel = Qwen3MoeForCausalLMWithDeepStack | Qwen3ForCausalLMWithDeepStack
LanguageModel = TextLanguageModel | DeepStackLanguageModel
WholeModel = Qwen3VLForConditionalGeneration  # and its MoE subclass


@dataclass(frozen=True, kw_only=True)
class ModelClasses:
    """`language` is what a language server loads; `whole` has the vision tower too, None for text-only models."""

    language: type[LanguageModel]
    whole: type[WholeModel] | None


REGISTRY: dict[str, ModelClasses] = {
    "Qwen3VLMoeForConditionalGeneration": ModelClasses(
        language=Qwen3MoeForCausalLMWithDeepStack, whole=Qwen3VLMoeForConditionalGeneration
    ),
    "Qwen3VLForConditionalGeneration": ModelClasses(
        language=Qwen3ForCausalLMWithDeepStack, whole=Qwen3VLForConditionalGeneration
    ),
    "Qwen3MoeForCausalLM": ModelClasses(language=Qwen3MoeForCausalLM, whole=None),
    "Qwen3ForCausalLM": ModelClasses(language=Qwen3ForCausalLM, whole=None),
}
