"""The training loop: draw, forward, backward, step; every step depends on the seed and its number alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import nn
from transformers import AutoConfig, Qwen3VLMoeForConditionalGeneration

from deploy.demo.train.batch import Batch, make_batch
from deploy.demo.train.curriculum import draw_cases
from deploy.demo.train.export import export
from deploy.demo.train.faults import random_faults
from deploy.demo.train.filters import cosine_filters
from deploy.demo.train.hints import Hints
from deploy.demo.train.loss import Scores, run_batch, run_pictures
from deploy.demo.train.optimizer import Optimizer
from deploy.demo.train.pictures import Pictures, render
from deploy.demo.train.rendering import Renderer
from deploy.demo.train.schedules import fault_share, hint_weight, rate
from deploy.demo.train.stages import TOTAL_STEPS, stage_at
from deploy.demo.train.state import Progress, load, save

_EMBEDDING_DEVIATION = 0.07
_GAIN, _RESIDUAL_GAIN = 0.8, 0.2
_RESIDUAL = (".o_proj.weight", ".experts.down_proj", ".attn.proj.weight", ".mlp.linear_fc2.weight")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        model_files: folder with config.json, tokenizer and chat template.
        out: folder for the state and, in `model/`, the result.
        steps: in all.
        seed: of weights, scenes and questions.
        learning_rate: the largest.
        report_every: steps between two lines.
        save_every: steps between two states.
        samples: in a batch; None: as the curriculum says.
        device: "cpu", "cuda".
    """

    model_files: Path
    out: Path
    steps: int = TOTAL_STEPS
    seed: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    report_every: int = 50
    save_every: int = 100
    samples: int | None = None
    device: str = "cpu"


class Trainer:
    """Owns model and optimizer.

    Args:
        say: takes a line of progress.
    """

    def __init__(self, config: TrainConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._renderer = Renderer(config.model_files)
        self._device = torch.device(config.device)
        self.model = new_model(config.model_files, config.seed)
        self.model.to(self._device)  # type: ignore[arg-type]  # its stub is of another overload
        self._hints = Hints(self.model.model.visual.config.out_hidden_size).to(self._device)
        # what is learnt, under names of its own in the state
        self._learner = nn.ModuleDict({"model": self.model, "hints": self._hints})
        self._optimizer = Optimizer(self._learner, weight_decay=config.weight_decay)
        self._progress = Progress(step=0, steps=config.steps, seed=config.seed)
        self._levels = len(self.model.model.visual.deepstack_visual_indexes)
        self._scores = Scores()
        self._losses: list[float] = []

    def resume(self) -> None:
        """Goes on from the state in the output folder.

        Raises:
            ValueError: there is none, or it is of another training.
        """
        progress = load(self._config.out, self._learner, self._optimizer)
        if (progress.steps, progress.seed) != (self._config.steps, self._config.seed):
            raise ValueError(
                f"the state is of a training of {progress.steps} steps with seed {progress.seed}, not of "
                f"{self._config.steps} with seed {self._config.seed}"
            )
        self._progress = progress
        self._say(f"resumed after step {progress.step}")

    def run(self, until: int | None = None) -> None:
        """Trains to the end, or to step `until`; saves the state as it goes, and the checkpoint at the end."""
        self._config.out.mkdir(parents=True, exist_ok=True)
        last = self._config.steps if until is None else until
        self.model.train()
        while self._progress.step < last:
            self._step()
            step = self._progress.step
            if step % self._config.report_every == 0 or step == last:
                self._report()
            if step % self._config.save_every == 0 or step == last:
                save(self._config.out, self._learner, self._optimizer, self._progress)
        if last == self._config.steps:
            self._say(f"wrote {export(self.model, self._config.model_files, self._config.out / 'model')}")

    def batch(self, step: int) -> Batch | Pictures:
        """What step number `step` learns from: pictures alone as long as nothing is asked."""
        rng = Random(f"{self._config.seed}/{step}")
        stage = stage_at(self._at(step))
        if self._config.samples is not None:
            stage = replace(stage, samples=self._config.samples)
        cases = draw_cases(rng, stage)
        if not stage.asks:
            pictures = render(self._renderer, cases)
            assert pictures is not None, "a stage without questions has pictures only"
            return pictures
        seen = bool(cases[0].scenes)
        faults = random_faults(rng, len(cases), fault_share(self._at(step)) if seen else 0.0, self._levels)
        return make_batch(self._renderer, cases, faults)

    def _at(self, step: int) -> float:
        """The step of a training of `TOTAL_STEPS` that step number `step` of this one corresponds to."""
        return step * TOTAL_STEPS / self._config.steps

    def _step(self) -> None:
        begin = time.monotonic()
        step = self._progress.step
        batch = self.batch(step)
        if isinstance(batch, Pictures):
            outcome = run_pictures(self.model, self._hints, batch, device=self._device)
        else:
            outcome = run_batch(
                self.model,
                self._hints,
                batch,
                self._renderer.coordinate_ids,
                hint_weight=hint_weight(self._at(step)),
                device=self._device,
            )
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._learner.parameters(), self._config.clip)
        self._optimizer.step(self._config.learning_rate * rate(self._at(step)))
        self._scores.add(outcome.scores)
        self._losses.append(outcome.shown)
        seconds = self._progress.seconds + time.monotonic() - begin
        self._progress = replace(self._progress, step=step + 1, seconds=seconds)

    def _report(self) -> None:
        progress = self._progress
        left = progress.seconds / progress.step * (progress.steps - progress.step)
        scores = "  ".join(f"{kind} {value:.2f}" for kind, value in self._scores.take().items())
        self._say(
            f"step {progress.step}/{progress.steps}  {progress.seconds / 60:.1f} min, {left / 60:.0f} left at this pace"
            f"  loss {sum(self._losses) / len(self._losses):.3f} | {scores}"
        )
        self._losses.clear()


def new_model(model_files: Path, seed: int) -> Qwen3VLMoeForConditionalGeneration:
    """Untrained, in float32. Weights are scaled by their inputs, those that write to the residual stream less:
    `transformers`' 0.02 for all suits far wider models."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(model_files)
    config._attn_implementation = "sdpa"
    model = Qwen3VLMoeForConditionalGeneration(config)
    nn.Module.float(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if ".embed_tokens." in name or ".pos_embed." in name:
                parameter.normal_(0.0, _EMBEDDING_DEVIATION, generator=generator)
                continue
            inputs = parameter.shape[-1] if ".experts." in name else parameter[0].numel()
            gain = _RESIDUAL_GAIN if name.endswith(_RESIDUAL) else _GAIN
            parameter.normal_(0.0, gain / math.sqrt(inputs), generator=generator)
        projection = model.model.visual.patch_embed.proj.weight
        projection.copy_(cosine_filters(*projection.shape))
    return model
