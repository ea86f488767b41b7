"""How Qwen's checkpoints write down what they think and which tools they call, and where such a mark may be coming.

<think>
The user wants the weather.
</think>

Let me look.
<tool_call>
{"name": "weather", "arguments": {"city": "Bonn"}}
</tool_call>
"""

from __future__ import annotations

THINK, THINK_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"


def open_end(text: str, mark: str) -> int:
    """Length of the end of `text` that begins `mark` but is not all of it."""
    # marks have "<" as their first character only
    at = text.rfind("<", max(0, len(text) - len(mark) + 1))
    return len(text) - at if at >= 0 and mark.startswith(text[at:]) else 0
