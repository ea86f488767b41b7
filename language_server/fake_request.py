"""One request of a fake language server: checked like a real one, answered by script."""

from __future__ import annotations

import itertools
import json
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
from common.stages import TimedStage
from language_server.engine.limits import Limits
from language_server.engine.sampling_params import SamplingParams, read_sampling
from language_server.fake_script import Script, default_answer
from language_server.model_files import model_name


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """What a fake language server knows of its checkpoint."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    max_model_len: int

    @staticmethod
    def load(model_dir: Path, *, max_model_len: int) -> FakeModel:
        """From a checkpoint's files but its weights; a length of 0 is the model's own.

        Raises:
            OSError, ValueError: a file is missing or makes no sense.
        """
        config = load_config(model_dir)
        longest = config.text.max_position_embeddings
        if max_model_len > longest:
            raise ValueError(f"a context of {max_model_len} tokens was asked for; the model allows {longest}")
        eos = json.loads((model_dir / "generation_config.json").read_text()).get("eos_token_id")
        if eos is None:
            raise ValueError(f"{model_dir / 'generation_config.json'} names no eos_token_id: no answer could end")
        return FakeModel(
            name=model_name(model_dir),
            config=config,
            tokenizer=Tokenizer.from_str((model_dir / "tokenizer.json").read_text()),
            eos_ids=(eos,) if isinstance(eos, int) else tuple(eos),
            max_model_len=max_model_len or longest,
        )


@dataclass(eq=False, kw_only=True)
class FakeRequest:
    """A request that was admitted.

    Attributes:
        missing: rows of each item that it has not been given, in prompt order.
        answer: token ids without the end.
        made: tokens of the answer that are out, those of an earlier attempt elsewhere included.
        failure: how it ends, if not well, once the answer is out.
    """

    handle: int
    prompt_ids: Sequence[int]
    missing: dict[MediaKey, int]
    sampling: SamplingParams
    eos_id: int
    answer: list[int]
    filler: int
    delay: float
    rate: float
    cached_tokens: int
    failure: common_pb2.Error | None
    resumed: int
    deadline: float
    arrived_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    made: int = 0
    bad_transfers: int = 0
    lacked_media: bool = False  # when it arrived

    def token(self, index: int) -> int:
        """Token `index` of the output; an answer that must not end yet is said again from the start."""
        if index < len(self.answer):
            return self.answer[index]
        if self.eos_id in self.sampling.stop_token_ids and index >= self.sampling.min_tokens:
            return self.eos_id
        return self.answer[index % len(self.answer)] if self.answer else self.filler

    def due(self, now: float) -> int:
        """How many tokens should be out by now."""
        if self.started_at is None or now < self.started_at + self.delay:
            return self.made
        if not self.rate:
            return self.sampling.max_tokens
        return self.resumed + 1 + int((now - self.started_at - self.delay) * self.rate)

    def stops(self, token: int) -> bool:
        """Whether `token`, just made, is an end."""
        return token in self.sampling.stop_token_ids and self.made > self.sampling.min_tokens

    @property
    def is_refused(self) -> bool:
        """The script has nothing for it but an error at once."""
        return self.failure is not None and not self.answer and not self.delay

    @property
    def is_over(self) -> bool:
        """All that comes before a scripted failure is out."""
        return self.failure is not None and self.made >= len(self.answer)

    def stages(self) -> list[TimedStage]:
        """As a real engine tells them, of a request that ends now; its prefill takes no time."""
        now = time.monotonic()
        started = self.started_at or now
        stages = [TimedStage(name="queue", start=self.arrived_at, end=started)]
        if self.lacked_media:
            stages.append(TimedStage(name="inbox", start=self.arrived_at, end=started))
        if self.started_at is not None:
            stages.append(TimedStage(name="prefill", start=started, end=started))
            stages.append(TimedStage(name="decode", start=started, end=now))
        return stages


class FakeAdmission:
    """Checks requests as the real engine does and decides what is answered.

    Args:
        max_item_rows: of a media item; 0: the checkpoint has no vision.
        rate: tokens a second where the script does not say; 0: all at once.

    Raises:
        ValueError: the script has token ids that the model has not.
    """

    def __init__(self, model: FakeModel, script: Script, *, max_item_rows: int, rate: float) -> None:
        self._model = model
        self._script = script
        self._rate = rate
        config = model.config
        self._limits = Limits(
            vocab_size=config.text.vocab_size,
            max_model_len=model.max_model_len,
            max_item_rows=max_item_rows,
            merge_size=config.vision.merge_size if config.vision else 1,
            placeholder_ids=frozenset(
                token for token in (config.image_token_id, config.video_token_id) if token is not None
            ),
            eos_ids=frozenset(model.eos_ids),
        )
        for token in itertools.chain.from_iterable(rule.parts for rule in script.rules):
            if isinstance(token, int) and token >= self.vocab_size:
                raise ValueError(f"the script says token {token}; the vocabulary has {self.vocab_size}")

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    def admit(self, generate: pb.Generate) -> FakeRequest:
        """The request, not yet started.

        Raises:
            InvalidRequestError: something in it is out of range or does not fit together.
            ContextLengthError: prompt and answer do not fit the model's context.
        """
        sampling, resumed = read_sampling(generate.sampling, self._limits), len(generate.resumed_output_ids)
        self._check_tokens(generate)
        self._check_spans(generate)
        rule = self._script.find(self._model.tokenizer.decode(list(generate.prompt_ids), skip_special_tokens=False))
        parts = rule.parts if rule is not None else [self._describe(generate)]
        request = FakeRequest(
            handle=generate.handle,
            prompt_ids=generate.prompt_ids,
            missing={span.key: span.item_rows for span in generate.spans},
            sampling=sampling,
            eos_id=self._model.eos_ids[0],
            answer=[token for part in parts for token in (self._encode(part) if isinstance(part, str) else [part])],
            filler=self._encode(".")[0],
            delay=rule.delay_seconds if rule is not None else 0.0,
            rate=rule.tokens_per_second if rule is not None and rule.tokens_per_second else self._rate,
            cached_tokens=min(rule.cached_tokens if rule is not None else 0, len(generate.prompt_ids) - 1),
            failure=rule.failure if rule is not None else None,
            resumed=resumed,
            deadline=time.monotonic() + generate.deadline_seconds if generate.deadline_seconds > 0 else math.inf,
        )
        request.made = resumed
        return request

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _describe(self, generate: pb.Generate) -> str:
        first = [span for span in generate.spans if span.row_offset == 0]
        videos = sum(generate.prompt_ids[span.token_offset] == self._model.config.video_token_id for span in first)
        return default_answer(
            images=len(first) - videos,
            videos=videos,
            rows=sum(span.rows for span in generate.spans),
            prompt_tokens=len(generate.prompt_ids),
        )

    def _check_tokens(self, generate: pb.Generate) -> None:
        max_tokens, prompt = generate.sampling.max_tokens, len(generate.prompt_ids)
        resumed, vocab_size = len(generate.resumed_output_ids), self.vocab_size
        if not prompt:
            raise InvalidRequestError("the prompt is empty")
        if (largest := max(itertools.chain(generate.prompt_ids, generate.resumed_output_ids))) >= vocab_size:
            raise InvalidRequestError(f"token id {largest} is outside the vocabulary of {vocab_size}")
        if resumed >= max_tokens:
            raise InvalidRequestError(f"{resumed} tokens resumed of an answer of {max_tokens}")
        limit = self._model.max_model_len
        if (total := prompt + max_tokens) > limit:
            raise ContextLengthError(
                f"This model's maximum context length is {limit} tokens. The request has {prompt} prompt tokens and "
                f"asks for up to {max_tokens} more: {total} in all."
            )

    def _check_spans(self, generate: pb.Generate) -> None:
        prompt, inside = generate.prompt_ids, set[int]()
        for span in generate.spans:
            end = span.token_offset + span.rows
            if len(span.key) != 32:
                raise InvalidRequestError(f"a media key of {len(span.key)} bytes instead of 32")
            if not 0 < span.item_rows <= self._limits.max_item_rows:
                raise InvalidRequestError(
                    f"a media item of {span.item_rows} visual tokens; this server holds up to "
                    f"{self._limits.max_item_rows}"
                )
            if span.rows < 1 or end > len(prompt) or span.row_offset + span.rows > span.item_rows:
                raise InvalidRequestError(f"a span of {span.rows} rows does not fit its item or the prompt")
            inside.update(range(span.token_offset, end))
        placeholders = {i for i, token in enumerate(prompt) if token in self._limits.placeholder_ids}
        if placeholders != inside:
            stray = min(placeholders ^ inside)
            raise InvalidRequestError(f"token {stray} is a visual placeholder without a span, or a span without one")
