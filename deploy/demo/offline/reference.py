"""`transformers`' own classes in this process: one question after another, deepstack levels at our mercy."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import DynamicCache, Qwen3VLMoeForConditionalGeneration

from deploy.demo.offline.answer import MAX_TOKENS, Answer
from deploy.demo.scenes.question import Case
from deploy.demo.train.faults import Fault
from deploy.demo.train.rendering import Renderer


class Reference:
    """A checkpoint in `dtype`."""

    def __init__(self, model_dir: Path, dtype: torch.dtype) -> None:
        self._renderer = Renderer(model_dir)
        self._model = Qwen3VLMoeForConditionalGeneration.from_pretrained(model_dir, dtype=dtype)
        self._model.train(False)

    @torch.inference_mode()
    def answer(self, case: Case, fault: Fault | None) -> Answer:
        """To the only question of `case`."""
        (question,) = case.questions
        prompt = self._renderer.prompt(case.media, question)
        model, decoder = self._model.model, self._model.model.language_model
        embeddings = decoder.embed_tokens(torch.tensor([prompt.ids]))
        positions = torch.from_numpy(prompt.positions)[:, None]
        visual = torch.zeros(1, len(prompt.ids), dtype=torch.bool)
        levels: list[torch.Tensor] | None = None
        if case.scenes:
            items = self._renderer.items(case.media)
            grids = [item.metadata.grid for item in items]
            seen = model.visual(
                torch.cat(self._renderer.patches(case.media)).to(embeddings.dtype),
                grid_thw=torch.tensor([(grid.t, grid.h, grid.w) for grid in grids]),
            )
            by_item = torch.split(torch.stack(seen.deepstack_features), [item.metadata.rows for item in items], dim=1)
            levels = list(torch.cat([fault(levels_LnH) if fault else levels_LnH for levels_LnH in by_item], dim=1))
            visual[0, prompt.visual] = True
            embeddings = embeddings.masked_scatter(visual[..., None], seen.pooler_output)
        cache = DynamicCache(config=decoder.config)
        output = decoder(
            inputs_embeds=embeddings,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            visual_pos_masks=visual if levels else None,
            deepstack_visual_embeds=levels,
        )
        position = int(positions.max())
        made: list[int] = []
        margin = float("inf")
        while True:
            logits = self._model.lm_head(output.last_hidden_state[:, -1]).float()[0]
            best, second = logits.topk(2).values.tolist()
            margin = min(margin, best - second)
            made.append(int(logits.argmax()))
            if made[-1] == self._renderer.end_id or len(made) == MAX_TOKENS:
                return Answer(text=self._renderer.decode(made), margin=margin)
            position += 1
            output = decoder(
                input_ids=torch.tensor([made[-1:]]),
                position_ids=torch.full((3, 1, 1), position),
                past_key_values=cache,
                use_cache=True,
            )
