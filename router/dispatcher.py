"""From a checked request to a plan that the language servers can carry out: media, prompt, sampling."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from common.errors import ContextLengthError, InvalidRequestError, UnavailableError
from common.pb import common_pb2, language_pb2
from router.answer.output import OutputRules
from router.api.chat import ChatRequest
from router.api.generation import GenerationRequest
from router.fleet.encodes import MediaItem
from router.fleet.fleet import Fleet
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.media.loader import MediaLoader
from router.model import ServedModel
from router.problems import ItemError
from router.prompt.conversation import Conversation, converse
from router.prompt.expansion import PlacedItem, Prompt, expand
from router.prompt.template import Piece
from router.workers import Workers

_THREAD_CHARACTERS = 50_000  # from here on tokenizing leaves the event loop


class Dispatcher:
    """Args:
    fleet: the servers.
    loader: of media.
    workers: for tokenizing what is long.
    """

    def __init__(self, *, fleet: Fleet, loader: MediaLoader, workers: Workers) -> None:
        self._fleet = fleet
        self._loader = loader
        self._workers = workers

    async def chat(self, request: ChatRequest, generation: Generation, *, salt: bytes, hold: Hold) -> Plan:
        """Everything up to the first word to a language server, for a conversation.

        Raises:
            EPDError: the request can't be served, or not now.
            ItemError: one of its media is the reason.
        """
        model = self._model()
        conversation = converse(request.messages, request.mm_processor_kwargs, largest_image=model.largest_image)
        self._loader.check_counts(conversation.media)
        self._check_text(conversation.text_bytes, model)
        pieces = model.template.render(
            conversation.messages,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            options=request.chat_template_kwargs,
        )
        items = await self._items(conversation, generation, salt, hold)
        prompt = await self._prompt(model, pieces, items, generation)
        return self._plan(model, request, prompt, conversation.affinity(salt, [item.key for item in items]))

    def _model(self) -> ServedModel:
        if self._fleet.model is None:
            raise UnavailableError("no language server has come up yet")
        return self._fleet.model

    def _plan(self, model: ServedModel, request: GenerationRequest, prompt: Prompt, affinity: bytes) -> Plan:
        """What is to be generated after a prompt."""
        return Plan(
            prompt=prompt,
            sampling=self._sampling(model, request, len(prompt.ids)),
            rules=OutputRules(
                stop=request.stop_strings,
                stop_ids=frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else model.eos_ids),
                min_tokens=request.min_tokens,
                include_stop=request.include_stop_str_in_output,
                hidden=model.special_ids if request.skip_special_tokens else frozenset(),
            ),
            choices=request.n,
            affinity=affinity,
        )

    async def _items(
        self, conversation: Conversation, generation: Generation, salt: bytes, hold: Hold
    ) -> list[MediaItem]:
        """The media, fetched, and their sizes known."""
        if not conversation.media:
            return []
        began = time.monotonic()
        items = await generation.during(self._loader.load(conversation.media, salt=salt, hold=hold))
        generation.timings["fetch"] = (time.monotonic() - began) * 1000
        await generation.learn(items)
        limit = self._fleet.max_item_rows
        for item in items:
            if (rows := generation.metadata(item.key).rows) > limit:
                error = InvalidRequestError(f"it has {rows} visual tokens; at most {limit} are allowed in one item")
                raise ItemError(error, item.param)
        return items

    async def _prompt(
        self, model: ServedModel, pieces: Sequence[Piece], items: Sequence[MediaItem], generation: Generation
    ) -> Prompt:
        placed = [(item, PlacedItem(key=item.key, metadata=generation.metadata(item.key))) for item in items]

        def build() -> Prompt:
            return expand(
                pieces,
                images=[place for item, place in placed if item.kind == common_pb2.IMAGE],
                videos=[place for item, place in placed if item.kind != common_pb2.IMAGE],
                tokens=model.media_tokens,
                tokenize=model.tokenize,
            )

        if sum(len(piece) for piece in pieces if isinstance(piece, str)) >= _THREAD_CHARACTERS:
            return await generation.during(self._workers.run(build))
        return build()

    def _check_text(self, size: int, model: ServedModel) -> None:
        """Raises ContextLengthError if even the longest tokens could not hold so many bytes: tokenizing takes more than
        a second for each megabyte, and memory by the hundred of them."""
        if size > self._fleet.max_model_len * model.longest_token:
            raise ContextLengthError(
                f"This model's maximum context length is {self._fleet.max_model_len} tokens; the messages have "
                f"{size} bytes of text, which are more. Please shorten the messages."
            )

    def _sampling(
        self, model: ServedModel, request: GenerationRequest, prompt_tokens: int
    ) -> language_pb2.SamplingParams:
        """Raises ContextLengthError if prompt and answer do not fit."""
        room = self._fleet.max_model_len - prompt_tokens
        wanted = request.wanted_tokens
        if room < 1 or (wanted is not None and wanted > room):
            more = f" and {wanted} tokens of answer are asked for" if wanted is not None else ""
            raise ContextLengthError(
                f"This model's maximum context length is {self._fleet.max_model_len} tokens; the messages have "
                f"{prompt_tokens}{more}. Please shorten the messages or the answer."
            )
        vocabulary = model.info.vocab_size
        if any(token >= vocabulary for token in request.stop_token_ids):
            raise InvalidRequestError(f"stop_token_ids: the model has only {vocabulary} tokens")
        defaults = model.defaults
        seed = request.seed if request.seed is not None else secrets.randbits(64)
        return language_pb2.SamplingParams(
            max_tokens=wanted or room,
            temperature=defaults.temperature if request.temperature is None else request.temperature,
            top_p=defaults.top_p if request.top_p is None else request.top_p,
            top_k=max(0, defaults.top_k if request.top_k is None else request.top_k),
            min_p=defaults.min_p if request.min_p is None else request.min_p,
            seed=seed % 2**64,
            stop_token_ids=request.stop_token_ids,
            ignore_eos=request.ignore_eos,
            min_tokens=request.min_tokens,
        )
