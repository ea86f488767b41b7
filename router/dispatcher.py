"""From a checked request to a plan that the language servers can carry out: prompt, sampling, grammar, what ends it."""

from __future__ import annotations

from dataclasses import replace

from common.pb import language_pb2
from router.answer.output import OutputRules
from router.api.chat import ChatRequest
from router.api.completions import CompletionRequest
from router.api.generation import GenerationRequest
from router.constraints.constraint import chat_grammar, content_grammar, is_constrained
from router.generation.choice import Plan
from router.generation.generation import Generation
from router.media.budget import Hold
from router.model import ServedModel
from router.prompt.thinking import Thinking
from router.prompter import Prompter, RoutedPrompt
from router.reading import chat_reader, readable
from router.sampling import for_prompt, sampling_params
from router.syntax import CALL
from router.threads import Threads


class Dispatcher:
    """Args:
    prompter: makes the prompts.
    grammars: for grammars, see `grammar_threads`.
    """

    def __init__(self, *, prompter: Prompter, grammars: Threads) -> None:
        self._prompter = prompter
        self._grammars = grammars

    async def chat(self, request: ChatRequest, generation: Generation, *, salt: bytes, hold: Hold) -> Plan:
        """Everything up to the first word to a language server, for a conversation.

        Raises:
            EPDError: the request can't be served, or not now.
            ItemError: one of its media is the reason.
        """
        model = self._prompter.model
        sampling = sampling_params(request, model)
        routed = await self._prompter.conversation(request, generation, salt=salt, hold=hold)
        plan = self._plan(model, request, routed, sampling)
        if is_constrained(request):
            plan.sampling.grammar.CopyFrom(await self._grammar(model, request, routed.thinking, generation))
        if request.tools and request.tool_choice == "none":
            # The tools stay in the prompt, which thus is the same for every choice.
            plan.sampling.bad_words.add(ids=[model.marks[CALL]] if CALL in model.marks else model.tokenize(CALL))
        reader = chat_reader(request, model.marks, routed.thinking)
        return replace(plan, reader=reader, rules=readable(plan.rules, model.marks))

    async def completions(self, request: CompletionRequest, generation: Generation, *, salt: bytes) -> list[Plan]:
        """One plan for each prompt.

        Raises:
            EPDError: the request can't be served, or not now.
            Problem: a prompt is not one.
        """
        model = self._prompter.model
        sampling = sampling_params(request, model)
        prompts = await self._prompter.raw(
            request.prompts, generation, salt=salt, add_special_tokens=request.add_special_tokens
        )
        plans = [self._plan(model, request, routed, sampling) for routed in prompts]
        if (wanted := request.content_format()) is not None:
            with generation.stages.stage("grammar"):
                grammar = await generation.during(self._grammars.run(lambda: content_grammar(wanted, model.marks)))
            for plan in plans:
                plan.sampling.grammar.CopyFrom(grammar)
        return plans

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
                sampling, request, prompt_tokens=len(routed.prompt.ids), max_model_len=self._prompter.max_model_len
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

    async def _grammar(
        self, model: ServedModel, request: ChatRequest, thinking: Thinking, generation: Generation
    ) -> language_pb2.Grammar:
        """Raises Problem (400): something in it can't be enforced."""
        if thinking is Thinking.POSSIBLE and (request.continue_final_message or not model.template.thinks):
            thinking = Thinking.NONE  # nobody expects it there
        with generation.stages.stage("grammar"):
            return await generation.during(self._grammars.run(lambda: chat_grammar(request, model.marks, thinking)))
