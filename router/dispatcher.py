"""From a checked request to a plan that the language servers can carry out: media, prompt, sampling."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from common.errors import InvalidRequestError, UnavailableError
from common.pb import common_pb2, language_pb2
from router.answer.output import OutputRules
from router.api.chat import ChatRequest
from router.api.completions import CompletionRequest
from router.api.generation import GenerationRequest
from router.constraints.constraint import chat_grammar, content_grammar, is_constrained
from router.fleet.encodes import MediaItem
from router.fleet.fleet import Fleet
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.media.loader import MediaLoader
from router.model import ServedModel
from router.problems import ItemError, Problem
from router.prompt.conversation import Conversation, converse, text_bytes
from router.prompt.expansion import PlacedItem, Prompt, expand
from router.prompt.raw import raw_ids
from router.prompt.template import Piece
from router.prompt.thinking import Thinking, thinking_of
from router.reading import chat_reader, readable
from router.sampling import for_prompt, sampling_params
from router.syntax import CALL, THINK, THINK_END
from router.workers import Workers

T = TypeVar("T")

_AFFINITY_TOKENS = 64  # leading ones by which plain prompts find the server that may know them
_THREAD_CHARACTERS = 50_000  # from here on work on text leaves the event loop
_MESSAGE_CHARACTERS = 100  # as long as this takes it to render a message or a tool, whatever it says


@dataclass(frozen=True, kw_only=True)
class RoutedPrompt:
    """A prompt, and what decides where it goes."""

    prompt: Prompt
    affinity: bytes  # see `Plan`
    thinking: Thinking = Thinking.NONE


class Dispatcher:
    """Args:
    fleet: the servers.
    loader: of media.
    workers: for tokenizing what is long.
    grammars: for grammars, see `grammar_threads`.
    reasoning: it is told apart from the answers.
    """

    def __init__(
        self, *, fleet: Fleet, loader: MediaLoader, workers: Workers, grammars: Workers, reasoning: bool
    ) -> None:
        self._fleet = fleet
        self._loader = loader
        self._workers = workers
        self._grammars = grammars
        self._reasoning = reasoning

    async def chat(self, request: ChatRequest, generation: Generation, *, salt: bytes, hold: Hold) -> Plan:
        """Everything up to the first word to a language server, for a conversation.

        Raises:
            EPDError: the request can't be served, or not now.
            ItemError: one of its media is the reason.
        """
        model = self.model
        sampling = sampling_params(request, model)
        routed = await self.conversation(request, generation, salt=salt, hold=hold)
        plan = self._plan(model, request, routed, sampling)
        if is_constrained(request):
            plan.sampling.grammar.CopyFrom(await self._grammar(model, request, routed.thinking, generation))
        if request.tools and request.tool_choice == "none":
            # The tools stay in the prompt, which thus is the same for every choice.
            plan.sampling.bad_words.add(ids=[model.marks[CALL]] if CALL in model.marks else model.tokenize(CALL))
        reader = chat_reader(request, model.marks, routed.thinking)
        return replace(plan, reader=reader, rules=readable(plan.rules, model.marks))

    async def conversation(
        self, request: ChatRequest, generation: Generation, *, salt: bytes, hold: Hold
    ) -> RoutedPrompt:
        """Its prompt, however long that is. Raises as `chat` does."""
        model = self.model
        if request.tools and "tools" not in model.template.asks_for:
            raise Problem(400, "the model's chat template has no place for tools", param="tools")
        conversation = converse(
            request.messages, request.mm_processor_kwargs, largest_image=model.largest_image, tools=request.tools
        )
        self._loader.check_counts(conversation.media)
        options = request.template_options
        size = conversation.text_bytes + text_bytes(options)
        self._check_text(size, model)
        size += _MESSAGE_CHARACTERS * (len(conversation.messages) + len(conversation.tools))

        def render() -> list[Piece]:
            return model.template.render(
                conversation.messages,
                tools=conversation.tools,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                options=options,
            )

        pieces = await self._aside(render, size, generation)
        thinking = self._thinking(model, request, pieces)
        items = await self._items(conversation, generation, salt, hold)
        prompt = await self._prompt(model, pieces, items, generation)
        keys = [item.key for item in items]
        affinity = await self._aside(lambda: conversation.affinity(salt, keys), size, generation)
        return RoutedPrompt(prompt=prompt, affinity=affinity, thinking=thinking)

    async def completions(self, request: CompletionRequest, generation: Generation, *, salt: bytes) -> list[Plan]:
        """One plan for each prompt.

        Raises:
            EPDError: the request can't be served, or not now.
            Problem: a prompt is not one.
        """
        model = self.model
        sampling = sampling_params(request, model)
        tokenized = await self.raw(request.prompts, generation, add_special_tokens=request.add_special_tokens)
        prompts = [RoutedPrompt(prompt=Prompt(ids=ids, spans=[]), affinity=_affinity(salt, ids)) for ids in tokenized]
        plans = [self._plan(model, request, routed, sampling) for routed in prompts]
        if (wanted := request.content_format()) is not None:
            grammar = await generation.during(self._grammars.run(lambda: content_grammar(wanted, model.marks)))
            for plan in plans:
                plan.sampling.grammar.CopyFrom(grammar)
        return plans

    async def raw(
        self, prompts: Mapping[str, str | Sequence[int]], generation: Generation, *, add_special_tokens: bool
    ) -> list[list[int]]:
        """The token ids of prompts that the chat template does not touch, by where they stand in the request.

        Raises:
            EPDError: not now.
            Problem: a prompt is not one.
        """
        model = self.model
        texts = [prompt for prompt in prompts.values() if isinstance(prompt, str)]
        for text in texts:
            self._check_text(len(text.encode(errors="surrogatepass")), model, "prompt")

        def tokenize() -> list[list[int]]:
            return [
                raw_ids(prompt, model, add_special_tokens=add_special_tokens, param=param)
                for param, prompt in prompts.items()
            ]

        return await self._aside(tokenize, sum(map(len, texts)), generation)

    @property
    def model(self) -> ServedModel:
        """Raises UnavailableError: nobody has told about it yet."""
        if self._fleet.model is None:
            raise UnavailableError("no language server has come up yet")
        return self._fleet.model

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return self._fleet.max_model_len

    def _plan(
        self,
        model: ServedModel,
        request: GenerationRequest,
        routed: RoutedPrompt,
        sampling: language_pb2.SamplingParams,
    ) -> Plan:
        """What is to be generated after a prompt."""
        return Plan(
            prompt=routed.prompt,
            sampling=for_prompt(
                sampling, request, prompt_tokens=len(routed.prompt.ids), max_model_len=self._fleet.max_model_len
            ),
            rules=OutputRules(
                stop=request.stop_strings,
                stop_ids=frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else model.eos_ids),
                min_tokens=request.min_tokens,
                include_stop=request.include_stop_str_in_output,
                hidden=model.special_ids if request.skip_special_tokens else frozenset(),
                silent=request.wanted_tokens == 0,
            ),
            choices=request.n,
            affinity=routed.affinity,
        )

    def _thinking(self, model: ServedModel, request: ChatRequest, pieces: Sequence[Piece]) -> Thinking:
        """Raises Problem (400) if the model is to be kept from it and can't be."""
        if not self._reasoning or THINK not in model.marks or THINK_END not in model.marks:
            return Thinking.NONE
        thinking = thinking_of(pieces, model.marks)
        if thinking is Thinking.BEGUN and request.reasoning_effort == "none":
            raise Problem(400, "reasoning_effort: this model always thinks", param="reasoning_effort")
        return thinking

    async def _grammar(
        self, model: ServedModel, request: ChatRequest, thinking: Thinking, generation: Generation
    ) -> language_pb2.Grammar:
        """Raises Problem (400): something in it can't be enforced."""
        if thinking is Thinking.POSSIBLE and (request.continue_final_message or not model.template.thinks):
            thinking = Thinking.NONE  # nobody expects it there
        return await generation.during(self._grammars.run(lambda: chat_grammar(request, model.marks, thinking)))

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
        self._loader.remember(conversation.media, items, salt=salt)
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

        return await self._aside(build, sum(len(piece) for piece in pieces if isinstance(piece, str)), generation)

    async def _aside(self, work: Callable[[], T], characters: int, generation: Generation) -> T:
        """The result of `work` on so much text, which leaves the event loop if it is much."""
        return await generation.during(self._workers.run(work)) if characters >= _THREAD_CHARACTERS else work()

    def _check_text(self, size: int, model: ServedModel, param: str = "messages") -> None:
        """Raises Problem (400) if even the longest tokens could not hold so many bytes: tokenizing takes more than
        a second for each megabyte, and memory by the hundred of them."""
        if size > self._fleet.max_model_len * model.longest_token:
            message = (
                f"This model's maximum context length is {self._fleet.max_model_len} tokens; the prompt has "
                f"{size} bytes of text, which are more. Please shorten the prompt."
            )
            raise Problem(400, message, param=param, code="context_length_exceeded")


def _affinity(salt: bytes, ids: Sequence[int]) -> bytes:
    """What prompts have in common that begin alike, and most likely share a prefix for longer."""
    return hashlib.sha256(salt + b"".join(token.to_bytes(4, "little") for token in ids[:_AFFINITY_TOKENS])).digest()
