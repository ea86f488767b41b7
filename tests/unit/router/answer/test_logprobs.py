from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.pb import language_pb2
from router.answer.logprobs import LegacyLogprobs, TokenNames, chat_logprobs, columns, prompt_logprobs

TABLE = [b"a", b"bc", b"\xf0\x9f", b"\x8c\x8b", b" d", b"x\xc3", b"\xa9\\"]
NAMES = TokenNames(TABLE)
AS_IDS = TokenNames(TABLE, as_ids=True)


def known(logprob: float, rank: int = 1, **top: float) -> language_pb2.TokenLogprobs:
    ids = [int(name[1:]) for name in top]
    return language_pb2.TokenLogprobs(logprob=logprob, rank=rank, top_ids=ids, top_logprobs=list(top.values()))


def test_names() -> None:
    assert [NAMES.name(token) for token in range(7)] == [
        "a",
        "bc",
        "\\xf0\\x9f",
        "\\x8c\\x8b",
        " d",
        "x\\xc3",
        "\\xa9\\",
    ]
    assert NAMES.legacy_name(1) == "bc"
    assert NAMES.legacy_name(5) == "bytes:\\x78\\xc3"
    assert NAMES.name(99) == NAMES.legacy_name(99) == ""
    assert AS_IDS.name(2) == AS_IDS.legacy_name(2) == "token_id:2"
    assert AS_IDS.bytes_of(2) == b"\xf0\x9f"


def test_chat() -> None:
    """Tokens without a part in the text are left out; what JSON can't say is a very small number."""
    shown = chat_logprobs([2, 0, 3], [known(-0.5, _2=-0.5, _0=float("-inf")), None, known(-1.0)], NAMES)
    assert shown == [
        {
            "token": "\\xf0\\x9f",
            "logprob": -0.5,
            "bytes": [0xF0, 0x9F],
            "top_logprobs": [
                {"token": "\\xf0\\x9f", "logprob": -0.5, "bytes": [0xF0, 0x9F]},
                {"token": "a", "logprob": -9999.0, "bytes": [0x61]},
            ],
        },
        {"token": "\\x8c\\x8b", "logprob": -1.0, "bytes": [0x8C, 0x8B], "top_logprobs": []},
    ]
    assert bytes(byte for entry in shown for byte in entry["bytes"]).decode() == "🌋"


def test_a_prompt() -> None:
    shown = prompt_logprobs([0, 1, 4], [known(-3.0, 7, _4=-0.25), known(-0.5, 1, _4=-0.5, _0=-1.0)], NAMES)
    assert shown == [
        None,
        {
            "1": {"logprob": -3.0, "rank": 7, "decoded_token": "bc"},
            "4": {"logprob": -0.25, "rank": 1, "decoded_token": " d"},
        },
        {
            "4": {"logprob": -0.5, "rank": 1, "decoded_token": " d"},
            "0": {"logprob": -1.0, "rank": 2, "decoded_token": "a"},
        },
    ]
    assert prompt_logprobs([5], [], NAMES) == [None]


def test_the_legacy_form() -> None:
    legacy = LegacyLogprobs(NAMES, count=1)
    rows = legacy.prompt([0, 1], [known(-0.25, _4=-0.125, _0=-0.5)], length=3)
    rows += legacy.output([4, 2], [known(-1.0, _4=-1.0), known(-2.0)])
    rows += legacy.output([3, 0, 1], [known(-3.0), None, known(-4.0, _0=-1.0)])
    assert columns(rows) == {
        "tokens": ["a", "bc", " d", "bytes:\\xf0\\x9f", "bytes:\\x8c\\x8b", "bc"],
        "token_logprobs": [None, -0.25, -1.0, -2.0, -3.0, -4.0],
        "top_logprobs": [
            None,
            {"bc": -0.25, " d": -0.125},
            {" d": -1.0},
            {"bytes:\\xf0\\x9f": -2.0},
            {"bytes:\\x8c\\x8b": -3.0},
            {"bc": -4.0, "a": -1.0},
        ],
        "text_offset": [0, 1, 3, 5, 5, 6],
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.data())
def test_offsets_wherever_a_text_is_cut(text: str, data: st.DataObject) -> None:
    """An offset is where the first character that the token has a part in begins."""
    content = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=10)) | {0, len(content)})
    table = [content[start:end] for start, end in pairwise(cuts)]
    legacy = LegacyLogprobs(TokenNames(table), count=0)
    offsets = [row.offset for token in range(len(table)) for row in legacy.output([token], [known(-1.0)])]
    assert offsets == [len(content[:start].decode(errors="ignore")) for start in cuts[:-1]]
