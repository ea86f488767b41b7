"""Server-sent events."""

from __future__ import annotations

import json

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # proxies pass it on as it comes
}

quote = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: it is used for every token
