from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from router.answer.detokenizer import Detokenizer, StopStrings, byte_alphabet, token_bytes
from tests.integration.router.peers import MODEL_DIR

TOKENIZER = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
TABLE = token_bytes(TOKENIZER.get_vocab(with_added_tokens=True))


def test_the_alphabet_is_one_to_one() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    detokenizer = Detokenizer(TABLE, ())
    pieces = [detokenizer.feed(token) for token in ids]
    assert "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces), "half a character was shown"


@given(st.lists(st.integers(0, len(TABLE) + 50), max_size=40))
def test_any_ids_give_what_the_library_gives(ids: list[int]) -> None:
    """Also ids that are no valid text, and ids that no token has. Only an unfinished end is left out."""
    detokenizer = Detokenizer(TABLE, ())
    text = "".join(detokenizer.feed(token) for token in ids)
    expected = TOKENIZER.decode(ids, skip_special_tokens=False)
    assert expected in (text, text + "\ufffd")


def test_hidden_tokens() -> None:
    token: int = TOKENIZER.encode("<|im_end|>", add_special_tokens=False).ids[0]
    assert Detokenizer(TABLE, {token}).feed(token) == ""
    assert Detokenizer(TABLE, ()).feed(token) == "<|im_end|>"


@given(
    st.lists(st.text("ab ", max_size=4), max_size=20),
    st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=3),
    st.booleans(),
)
def test_stop_strings_wherever_they_are_cut(pieces: list[str], stops: list[str], include: bool) -> None:
    whole = "".join(pieces)
    ends = {whole.find(stop) + len(stop): stop for stop in reversed(stops) if stop in whole}
    watcher = StopStrings(stops, include=include)
    shown = ""
    for piece in pieces:
        shown += watcher.feed(piece)
        if watcher.matched is not None:
            break
        seen = whole[: len(shown)]
        assert shown == seen, "text was changed or swallowed"
    if not ends:
        assert watcher.matched is None
        assert shown + watcher.flush() == whole
    else:
        assert watcher.matched is not None
        # The piece that completes a stop string may complete several: the first to be complete wins.
        end = min(ends)
        stop = max((s for s in stops if whole[:end].endswith(s)), key=len)
        assert watcher.matched in stops
        assert shown == whole[: end if include else end - len(stop)]


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=8))
def test_held_text_is_no_longer_than_needed(pieces: list[str]) -> None:
    watcher = StopStrings(["aab"])
    whole = ""
    shown = ""
    for piece in pieces:
        whole += piece
        shown += watcher.feed(piece)
        if watcher.matched is not None:
            return
        held = whole[len(shown) :]
        assert "aab".startswith(held)
        assert not any("aab".startswith(whole[-n:]) for n in range(len(held) + 1, 3) if n <= len(whole))
