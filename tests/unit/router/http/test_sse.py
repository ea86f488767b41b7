from __future__ import annotations

import json

from router.http.sse import ChatChunks


def test_chunks_are_json_whatever_the_text() -> None:
    chunks = ChatChunks({"id": "x", "model": 'a"b'}, with_usage=True)
    for text in ("plain", '"quotes"\n', "\u2028 é 🌋 \x00"):
        event = chunks.text(0, text).decode()
        assert event.startswith("data: ")
        assert event.endswith("\n\n")
        assert "\n" not in event[:-2]
        data = json.loads(event.removeprefix("data: "))
        assert data["choices"][0]["delta"] == {"content": text}
        assert data["usage"] is None
        assert data["object"] == "chat.completion.chunk"
