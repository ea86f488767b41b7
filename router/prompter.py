"""From a checked request to the tokens of its prompt: media fetched and measured, template, tokenizer, placeholders."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.errors import InvalidRequestError, UnavailableError
from common.pb import common_pb2
from router.api.chat import ChatRequest
from router.fleet.encodes import MediaItem
from router.fleet.fleet import Fleet
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
from router.syntax import THINK, THINK_END
from router.threads import Threads

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


class Prompter:
    """Args:
    fleet: the servers.
    loader: of media.
    threads: for tokenizing what is long.
    reasoning: it is told apart from the answers.
    """

    def __init__(self, *, fleet: Fleet, loader: MediaLoader, threads: Threads, reasoning: bool) -> None:
        self._fleet = fleet
        self._loader = loader
        self._threads = threads
        self._reasoning = reasoning

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

    async def conversation(
        self, request: ChatRequest, generation: Generation, *, salt: bytes, hold: Hold
    ) -> RoutedPrompt:
        """The prompt of a conversation, however long that is.

        Raises:
            EPDError: the request can't be served, or not now.
            ItemError: one of its media is the reason.
        """
        model = self.model
        if request.tools and "tools" not in model.template.asks_for:
            raise Problem(400, "the model's chat template has no place for tools", param="tools")
        conversation = converse(
            request.messages, request.mm_processor_kwargs, largest_image=model.largest_image, tools=request.tools
        )
        self._loader.check_counts(conversation.media)
        options = request.template_options
        for name in sorted(model.template.fixed & options.keys()):
            raise Problem(400, "this variable is not for a request to set", param=f"chat_template_kwargs.{name}")
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

        with generation.stages.stage("template"):
            pieces = await self._aside(render, size, generation)
        thinking = self._thinking(model, request, pieces)
        items = await self._items(conversation, generation, salt, hold)
        prompt = await self._prompt(model, pieces, items, generation)
        keys = [item.key for item in items]
        affinity = await self._aside(lambda: conversation.affinity(salt, keys), size, generation)
        return RoutedPrompt(prompt=prompt, affinity=affinity, thinking=thinking)

    async def raw(
        self,
        prompts: Mapping[str, str | Sequence[int]],
        generation: Generation,
        *,
        salt: bytes,
        add_special_tokens: bool,
    ) -> list[RoutedPrompt]:
        """Prompts that the chat template does not touch; they come by where they stand in the request.

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

        with generation.stages.stage("tokenize"):
            tokenized = await self._aside(tokenize, sum(map(len, texts)), generation)
        return [RoutedPrompt(prompt=Prompt(ids=ids, spans=[]), affinity=_affinity(salt, ids)) for ids in tokenized]

    def _thinking(self, model: ServedModel, request: ChatRequest, pieces: Sequence[Piece]) -> Thinking:
        """Raises Problem (400) if the model is to be kept from it and can't be."""
        if not self._reasoning or THINK not in model.marks or THINK_END not in model.marks:
            return Thinking.NONE
        thinking = thinking_of(pieces, model.marks)
        if thinking is Thinking.BEGUN and request.reasoning_effort == "none":
            raise Problem(400, "reasoning_effort: this model always thinks", param="reasoning_effort")
        return thinking

    async def _items(
        self, conversation: Conversation, generation: Generation, salt: bytes, hold: Hold
    ) -> list[MediaItem]:
        """The media, fetched, and their sizes known."""
        if not conversation.media:
            return []
        began = time.monotonic()
        items = await generation.during(
            self._loader.load(conversation.media, salt=salt, hold=hold, stages=generation.stages)
        )
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

        with generation.stages.stage("tokenize"):
            return await self._aside(build, sum(len(piece) for piece in pieces if isinstance(piece, str)), generation)

    async def _aside(self, work: Callable[[], T], characters: int, generation: Generation) -> T:
        """The result of `work` on so much text, which leaves the event loop if it is much."""
        return await generation.during(self._threads.run(work)) if characters >= _THREAD_CHARACTERS else work()

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
