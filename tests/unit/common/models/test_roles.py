from __future__ import annotations

from common.models.roles import belongs_to, role_files

WEIGHT_MAP = {
    "model.visual.pos_embed.weight": "1",
    "model.visual.merger.norm.weight": "2",
    "model.language_model.norm.weight": "2",
    "lm_head.weight": "3",
}


def test_every_tensor_is_of_one_role() -> None:
    assert all(belongs_to(name, "vision") != belongs_to(name, "language") for name in WEIGHT_MAP)
    assert all(belongs_to(name, "whole") for name in WEIGHT_MAP)


def test_a_shard_of_both_roles_is_needed_by_both() -> None:
    assert role_files(WEIGHT_MAP, "vision") == ["1", "2"]
    assert role_files(WEIGHT_MAP, "language") == ["2", "3"]
    assert role_files(WEIGHT_MAP, "whole") == ["1", "2", "3"]


def test_a_text_only_checkpoint_is_the_language_servers() -> None:
    assert role_files({"model.layers.0.mlp.gate.weight": "1"}, "language") == ["1"]
