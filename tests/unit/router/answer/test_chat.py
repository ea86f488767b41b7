from __future__ import annotations

import json

from router.answer.chat import ChatShape
from router.answer.shape import Delta, Head


def test_chunks_are_json_whatever_the_text() -> None:
    head = Head(request_id="x", created=1, model='a"b', fingerprint="fp")
    shape = ChatShape(head, with_usage=True, with_token_ids=False, prompt_ids=())
    for text in ("plain", '"quotes"\n', "\u2028 é 🌋 \x00"):
        event = shape.delta(Delta(index=0, text=text)).decode()
        assert event.startswith("data: ")
        assert event.endswith("\n\n")
        assert "\n" not in event[:-2]
        data = json.loads(event.removeprefix("data: "))
        assert data["choices"][0]["delta"] == {"content": text}
        assert data["usage"] is None
        assert data["object"] == "chat.completion.chunk"
        assert data["model"] == 'a"b'
