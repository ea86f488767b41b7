"""The demo's files fit each other, and load as what they say they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen3VLMoeConfig

from deploy.demo.make_files import ADDED, COORDINATES, SPECIAL, tokenizer_config, train_tokenizer

MODEL = Path(__file__).parents[4] / "deploy" / "demo" / "model"
TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def load(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((MODEL / name).read_text(encoding="utf-8"))
    return parsed


def test_tokenizer_files_are_what_the_code_makes() -> None:
    tokenizer = train_tokenizer()
    assert json.loads(tokenizer.to_str()) == load("tokenizer.json")
    template = (MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    assert load("tokenizer_config.json") == tokenizer_config(tokenizer, template)
    assert load("chat_template.json") == {"chat_template": template}


def test_ids_of_the_config_are_those_of_the_tokenizer() -> None:
    config, generation = load("config.json"), load("generation_config.json")
    for key, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        assert config[key] == TOKENIZER.token_to_id(token)
    assert config["text_config"]["eos_token_id"] == TOKENIZER.token_to_id("<|im_end|>")
    assert config["text_config"]["vocab_size"] == TOKENIZER.get_vocab_size() == 1252
    assert generation["eos_token_id"] == [TOKENIZER.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]


def test_transformers_loads_them() -> None:
    config = AutoConfig.from_pretrained(MODEL)
    assert isinstance(config, Qwen3VLMoeConfig)
    assert config.text_config.rope_parameters["mrope_section"] == [6, 5, 5]
    assert sum(config.text_config.rope_parameters["mrope_section"]) * 2 == config.text_config.head_dim
    assert GenerationConfig.from_pretrained(MODEL).eos_token_id == [1128, 1126]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = "Where is the <|box_start|>(12,34)<|box_end|> 42 <think>ok</think>\n"
    assert tokenizer(text)["input_ids"] == TOKENIZER.encode(text).ids


def test_deepstack_taps_early_blocks() -> None:
    vision = load("config.json")["vision_config"]
    levels = vision["deepstack_visual_indexes"]
    assert len(levels) == 3
    assert max(levels) < vision["depth"] - 1, "a level from the last block would repeat the main embedding"


def test_orientation_of_the_experts_is_not_ambiguous() -> None:
    text = load("config.json")["text_config"]
    assert text["hidden_size"] not in (text["moe_intermediate_size"], 2 * text["moe_intermediate_size"])


@pytest.mark.parametrize(
    "text", ["What colour is it?", "漢字 ẞ é 🎉", "e\u0301", "\x00\x7f", "  \n\n\t x", "1234567890"]
)
def test_any_text_tokenizes_and_comes_back(text: str) -> None:
    import unicodedata

    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


def test_common_words_are_single_tokens() -> None:
    for word in (" circle", " square", " red", " blue", " picture", " the", "user", "assistant", "What"):
        assert len(TOKENIZER.encode(word).ids) == 1, word
    assert len(TOKENIZER.encode("1234").ids) == 4, "digits stand alone"


def test_special_tokens() -> None:
    for token in (*SPECIAL, *ADDED, *COORDINATES):
        (only,) = TOKENIZER.encode(f"{token}").ids
        kept = TOKENIZER.decode([only], skip_special_tokens=True)
        assert kept == ("" if token in SPECIAL else token)


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("messages", "options", "text"),
    [
        ([{"role": "user", "content": "Hi"}], {}, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (
            [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": "Hi"}],
            {"add_generation_prompt": False},
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image"},
                        {"type": "text", "text": "and"},
                        {"type": "video"},
                        {"type": "image_url", "image_url": {"url": "..."}},
                    ],
                }
            ],
            {"add_vision_id": True, "add_generation_prompt": False},
            "<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>and"
            "Video 1: <|vision_start|><|video_pad|><|vision_end|>"
            "Picture 2: <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n",
        ),
        (
            [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
            {"tools": TOOLS, "add_generation_prompt": False},
            "<|im_start|>system\nS\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            '{"type": "function", "function": {"name": "f", "parameters": {}}}\n</tools>\n\n'
            "For each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\nU<|im_end|>\n",
        ),
        (
            [
                {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
                {"role": "tool", "content": "1"},
                {"role": "tool", "content": [{"type": "image"}]},
                {"role": "assistant", "content": "Done.", "tool_calls": [CALL]},
            ],
            {"add_generation_prompt": False},
            '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n"
            "<tool_response>\n<|vision_start|><|image_pad|><|vision_end|>\n</tool_response><|im_end|>\n"
            '<|im_start|>assistant\nDone.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n',
        ),
    ],
)
def test_chat_template(messages: list[dict[str, Any]], options: dict[str, Any], text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, **{"add_generation_prompt": True, **options})
    assert rendered == text


def test_images_are_small_and_readable() -> None:
    from PIL import Image

    images = sorted((MODEL.parent / "images").iterdir())
    assert len(images) >= 3
    assert sum(path.stat().st_size for path in images) < 60_000
    for path in images:
        with Image.open(path) as image:
            image.load()
            assert max(image.size) <= 512
