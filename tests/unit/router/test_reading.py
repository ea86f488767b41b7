from __future__ import annotations

import gc
import weakref

from router.answer.reader import ModelReader
from router.api.chat import parse_chat_request
from router.prompt.thinking import Thinking
from router.reading import chat_reader

TOOL = {"type": "function", "function": {"name": "f"}}
BODY = {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}


def test_a_reader_does_not_keep_the_request() -> None:
    """Which has the images of the conversation in it."""
    request = parse_chat_request(BODY, max_choices=1).request
    make = chat_reader(request, {}, Thinking.NONE)
    known = weakref.ref(request)
    del request
    gc.collect()
    assert known() is None
    assert isinstance(make(), ModelReader)
