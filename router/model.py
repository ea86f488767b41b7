"""The model as the router knows it: made of the files that the first language server sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from common.pb import common_pb2
from router.answer.detokenizer import token_bytes
from router.prompt.expansion import MediaTokens
from router.prompt.template import ChatTemplate

# Where the tokenizer's own name for a special token may appear in a chat template.
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What holds where a request says nothing: the checkpoint's generation_config.json, then OpenAI's values."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float

    @staticmethod
    def of(generation: Mapping[str, Any]) -> SamplingDefaults:
        """Raises ValueError if the file has what can't be used."""

        def number(name: str, otherwise: float) -> float:
            value = generation.get(name)
            return float(value) if value is not None else otherwise

        repetition_penalty = number("repetition_penalty", 1.0)
        if not 0.01 <= repetition_penalty <= 100:  # as requests may have it
            raise ValueError(f"generation_config.json: repetition_penalty is {repetition_penalty}")
        if generation.get("do_sample") is False:
            return SamplingDefaults(
                temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=repetition_penalty
            )
        return SamplingDefaults(
            temperature=number("temperature", 1.0),
            top_p=number("top_p", 1.0),
            top_k=int(number("top_k", 0)),
            min_p=number("min_p", 0.0),
            repetition_penalty=repetition_penalty,
        )


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """Tokenizer, template and constants of the model that the language servers hold."""

    info: common_pb2.ModelInfo  # of the first language server
    tokenizer: Tokenizer  # takes special-token strings for plain text
    template: ChatTemplate
    token_bytes: list[bytes]
    longest_token: int  # bytes
    special_ids: frozenset[int]
    marks: Mapping[str, int]  # ids of added tokens that structure a text: the special ones, and such as <think>
    eos_ids: frozenset[int]
    media_tokens: MediaTokens | None  # None: text only
    largest_image: int  # pixels
    defaults: SamplingDefaults
    affixes: tuple[list[int], list[int]]  # ids that the tokenizer puts before and behind a text of its own accord

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text in which no special token is seen."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def tokenize_prompt(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text in which special tokens are written out; `add_special_tokens`: with the `affixes`."""
        before, behind = self.affixes if add_special_tokens else ([], [])
        ids = list(before)
        for piece in self.template.split(text):
            if isinstance(piece, str):
                ids += self.tokenize(piece)
            else:
                ids.append(piece)
        return ids + behind

    @staticmethod
    def build(info: common_pb2.ModelInfo, files: Mapping[str, bytes]) -> ServedModel:
        """Takes some hundred milliseconds for a big vocabulary: run it in a thread.

        Args:
            info: of the server that sent the files.
            files: by name, see `common.fingerprint.ROUTER_FILES`.

        Raises:
            ValueError: a file is missing or not what the router can use; the message names it.
        """
        config = _json(files, "config.json")
        generation = _json(files, "generation_config.json", optional=True)
        tokenizer_config = _json(files, "tokenizer_config.json", optional=True)
        description = _json(files, "tokenizer.json")
        if (description.get("decoder") or {}).get("type") != "ByteLevel":
            raise ValueError("tokenizer.json: only byte-level tokenizers are supported")
        added = description.get("added_tokens") or []
        special = {token["content"]: token["id"] for token in added if token["special"]}
        for token in added:
            if token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"] or token["normalized"]):
                raise ValueError(f"tokenizer.json: special token {token['content']!r} changes the text around it")
        tokenizer = _tokenizer(files["tokenizer.json"])
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()
        table = token_bytes(tokenizer.get_vocab(with_added_tokens=True))
        return ServedModel(
            info=info,
            tokenizer=tokenizer,
            template=ChatTemplate(
                _template_source(files, tokenizer_config),
                special=special,
                added=[token["content"] for token in added],
                variables=_named_tokens(tokenizer_config),
            ),
            token_bytes=table,
            longest_token=max(map(len, table), default=0),
            special_ids=frozenset(special.values()),
            marks={token["content"]: token["id"] for token in added if _is_mark(token)},
            eos_ids=_eos_ids(config, generation),
            media_tokens=_media_tokens(config) if info.vision else None,
            largest_image=_largest_image(_json(files, "preprocessor_config.json", optional=True)),
            defaults=SamplingDefaults.of(generation),
            affixes=_affixes(tokenizer),
        )


def _json(files: Mapping[str, bytes], name: str, *, optional: bool = False) -> dict[str, Any]:
    if name not in files:
        if optional:
            return {}
        raise ValueError(f"{name}: the language server did not send it")
    try:
        content = json.loads(files[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name}: not a JSON object")
    return content


def _is_mark(token: Mapping[str, Any]) -> bool:
    """As llguidance tells it: such a token is no text in a grammar."""
    content: str = token["content"]
    return token["special"] or (content.startswith("<") and content.endswith(">"))


def _tokenizer(content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # noqa: BLE001  (it is what the library raises)
        raise ValueError(f"tokenizer.json: {error}") from None


def _affixes(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    plain, full = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    start = next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)
    return full[:start], full[start + len(plain) :]


def _template_source(files: Mapping[str, bytes], tokenizer_config: Mapping[str, Any]) -> str:
    """The first that is there, in the order in which transformers looks."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    for content in (_json(files, "chat_template.json", optional=True), tokenizer_config):
        if isinstance(source := content.get("chat_template"), str):
            return source
    raise ValueError("chat_template.jinja: the checkpoint has no chat template")


def _named_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name in _NAMED_TOKENS:
        token = tokenizer_config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            named[name] = token
    return named


def _eos_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> frozenset[int]:
    for source in (generation, config.get("text_config") or {}, config):
        eos = source.get("eos_token_id")
        if eos is not None:
            return frozenset(eos if isinstance(eos, list) else [eos])
    return frozenset()


def _media_tokens(config: Mapping[str, Any]) -> MediaTokens:
    try:
        return MediaTokens(
            image=config["image_token_id"],
            video=config["video_token_id"],
            vision_start=config["vision_start_token_id"],
            vision_end=config["vision_end_token_id"],
        )
    except KeyError as error:
        raise ValueError(f"config.json: {error} is missing") from None


def _largest_image(preprocessor: Mapping[str, Any]) -> int:
    """In pixels, as the encode servers read the same file; no limit of its own where the file has none."""
    size = preprocessor.get("size") or {}
    return int(size.get("longest_edge") or preprocessor.get("max_pixels") or 1 << 40)
