"""Prompts without a chat template: text in which special tokens may be written out, or token ids."""

from __future__ import annotations

from collections.abc import Sequence

from router.model import ServedModel
from router.problems import Problem


def raw_ids(prompt: str | Sequence[int], model: ServedModel, *, add_special_tokens: bool, param: str) -> list[int]:
    """The token ids of a prompt.

    Args:
        prompt: text, or ids.
        model: whose tokens they are.
        add_special_tokens: what the tokenizer puts around a text is added to it.
        param: where the prompt stands in the request.

    Raises:
        Problem: 400; it is empty, not Unicode, has ids that the model lacks, or refers to media.
    """
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError:
            message = f"{param}: half of a surrogate pair, which is not Unicode"
            raise Problem(400, message, param=param) from None
        ids = model.tokenize_prompt(prompt, add_special_tokens=add_special_tokens)
    else:
        ids = list(prompt)
    if not ids:
        raise Problem(400, f"{param}: the prompt is empty", param=param)
    if (largest := max(ids)) >= model.info.vocab_size:
        message = f"{param}: there is no token {largest}; the model has {model.info.vocab_size} tokens"
        raise Problem(400, message, param=param)
    tokens = model.media_tokens
    if tokens is not None and not {tokens.image, tokens.video}.isdisjoint(ids):
        message = f"{param}: an image or video can't be part of a plain prompt; use /v1/chat/completions"
        raise Problem(400, message, param=param)
    return ids
