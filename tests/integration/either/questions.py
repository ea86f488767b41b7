"""What is asked, and what both systems answer."""

from __future__ import annotations

from typing import Any

from deploy.demo.scenes.talk import WEATHER
from tests.integration.seeing.pictures import CLIP, mp4

HELLO, GREETING = "Hello!", "Hello! How can I help you?"
COLOUR, RED = "What colour is the circle?", "It is red."
WAY, RIGHT = "Which way does the square move?", "It moves right."
THINK, THOUGHT, SUM = "Think first: what is 3 plus 4?", "3 plus 4 is 7.", "7"
WEATHER_QUESTION = "What is the weather in Paris?"
CALL = f'<tool_call>\n{{"name": "{WEATHER.name}", "arguments": {{"city": "Paris"}}}}\n</tool_call>'
SPLIT = "žluť 🌋 kůň"  # the demo's tokenizer splits some of these characters
SPELL = "Spell it."  # nobody has learnt that: say `guided_choice` = [SPLIT] with it
AGAIN = "And once again."
VIDEO = mp4(CLIP)
FRAME_TOKENS = (CLIP.scene.width // 32) * (CLIP.scene.height // 32)  # of two frames together
NO_THOUGHT = "<think>\n\n</think>\n\n"

FORM, FORM_TEXT = "Hello, in a form.", '{"a": 1}'  # likewise, with a grammar
TOOLED = "Hello, with a tool."  # likewise, with a call that is required
SLOW = "Read this slowly"  # at the begin of a long prompt: the fakes wait for as long as a model would read

# The first that is found in the prompt counts.
SCRIPT: list[dict[str, Any]] = [
    {"match": NO_THOUGHT, "answer": SUM},
    {"match": THINK, "answer": f"<think>\n{THOUGHT}\n</think>\n\n{SUM}"},
    {"match": "<tool_response>", "answer": GREETING},
    {"match": FORM, "answer": FORM_TEXT},
    {"match": TOOLED, "answer": CALL},
    {"match": SLOW, "answer": GREETING, "delay_seconds": 1.0},
    {"match": WEATHER_QUESTION, "answer": CALL},
    {"match": AGAIN, "answer": GREETING, "cached_tokens": 128},
    {"match": HELLO, "answer": GREETING},
    {"match": COLOUR, "answer": RED},
    {"match": WAY, "answer": RIGHT},
    {"match": SPELL, "answer": SPLIT},
]
