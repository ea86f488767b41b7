"""What the fake language server of these tests says, by a word of the prompt."""

from __future__ import annotations

from typing import Any

GREETING = "Hello there, I am a model."
WORDS = "one two three four"
SPLIT = "žluť 🌋 kůň"  # the demo's tokenizer splits some of these characters
STORY = "Once upon a time"
THOUGHT = "It is a riddle."
SOLUTION = "A river."
CITY = {"name": "Köln", "people": 1_080_000, "rivers": ["Rhein"]}
CITY_TEXT = '{"name": "Köln", "people": 1080000, "rivers": ["Rhein"]}'
ARGUMENTS = '{"city": "Köln", "days": 2}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
SECOND_CALL = CALL.replace("Köln", "Bonn")
FORECAST = "It rains."

# The first that is found in the prompt counts.
RULES: list[dict[str, Any]] = [
    {"match": "twelve degrees", "answer": FORECAST},
    {"match": "Weather in two places", "answer": f"Let me look.\n{CALL}\n{SECOND_CALL}"},
    {"match": "Weather", "answer": CALL},
    {"match": "Greet", "answer": GREETING},
    {"match": "Count", "answer": WORDS},
    {"match": "Spell", "answer": SPLIT},
    {"match": "Mark", "tokens": ["one", "<|im_start|>", " two"]},
    {"match": "Riddle", "answer": f"<think>\n{THOUGHT}\n</think>\n\n{SOLUTION}"},
    {"match": "Describe a city", "answer": CITY_TEXT},
    {"match": "Be busy", "error": "OVERLOADED", "message": "all seats are taken"},
    {"match": "Be away", "error": "UNAVAILABLE", "message": "nobody is in"},
    {"match": "Be late", "error": "DEADLINE_EXCEEDED", "message": "too late"},
    {"match": "Break off", "answer": STORY, "error": "INTERNAL", "message": "at line 7 of /secret/engine.py"},
    {"match": "Break", "error": "INTERNAL", "message": "at line 7 of /secret/engine.py"},
]
