"""Writes the generated files of the demo: tokenizer and sample images. The configurations beside them are hand-written.

    python -m deploy.demo.make_files

The same inputs give the same files; run it after a change to the corpus, the special tokens, the chat template or the
drawings.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from deploy.demo import drawings
from deploy.demo.corpus import sentences

HERE = Path(__file__).parent

# Names and order are those of the published Qwen3-VL tokenizers.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Single tokens that are ordinary text all the same: `skip_special_tokens` keeps them.
ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
# A coordinate of a box is one token, which makes finding things a choice among 101 neighbours that training can
# soften. All other numbers are still spelt digit by digit.
COORDINATES = tuple(str(value) for value in range(10, 1001, 10))
WORDS_SIZE = 1152  # tokens without the coordinates; those came later and stand last, so that all others kept their ids
VOCAB_SIZE = WORDS_SIZE + len(COORDINATES)
# How Qwen2 and its successors cut text into words before merging; digits stand alone.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE of `VOCAB_SIZE` tokens with the normaliser and the pre-tokenizer of Qwen2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sentences(),
        trainers.BpeTrainer(
            vocab_size=WORDS_SIZE - len(SPECIAL) - len(ADDED),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*ADDED, *COORDINATES)])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, f"the corpus yields {tokenizer.get_vocab_size()} tokens only"
    return tokenizer


def tokenizer_config(tokenizer: Tokenizer, chat_template: str) -> dict[str, object]:
    """What `transformers` wants beside tokenizer.json."""
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL,
        }
        for token in (*SPECIAL, *ADDED, *COORDINATES)
    }
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    model = HERE / "model"
    chat_template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer = train_tokenizer()
    tokenizer.save(str(model / "tokenizer.json"))
    write_json(model / "tokenizer_config.json", tokenizer_config(tokenizer, chat_template))
    write_json(model / "chat_template.json", {"chat_template": chat_template})
    drawings.write_all(HERE / "images")


if __name__ == "__main__":
    main()
