"""What the clients ask, and what has to come back: from fakes that follow a script, or from the demo's model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

IMAGE = Path(__file__).parents[2] / "deploy" / "demo" / "images" / "circle-and-square.png"

# The fakes tell a right request from a wrong one by its prompt, so the rules look for all that has to be there: an
# image's rows right before the question, the description of a tool, a tool's result, and nothing after the question.
_QUESTION_END = "<|im_end|>\n<|im_start|>assistant\n"
_TOOLS_END = "</tool_call><|im_end|>\n<|im_start|>user\n"
_IMAGE_END = "<|image_pad|><|vision_end|>"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Every text and value that an answer is compared with may be None: then any will do."""

    describe: str  # asked about the image
    description: str
    weather: str  # makes the model call the tool `get_weather`, which takes a `city`
    city: str
    report: str  # what the tool says
    forecast: str | None  # what the model makes of it
    rejection: str  # says that the first call is wrong
    second_city: str | None  # what is called then
    locate: str  # asked about the image; the answer is JSON, {"bbox_2d": four integers}
    box: list[int]
    box_within: int  # of each of the four
    recite: str  # asked for a stream
    recital: str

    def to_json(self, *, url: str, key: str, model: str) -> str:
        """As a client's script reads it. `url` has no path."""
        where = {"url": url, "key": key, "model": model, "image": str(IMAGE)}
        return json.dumps({**where, **asdict(self)})


SCRIPTED = Scenario(
    describe="What is in this image?",
    description="This is a made-up answer. I see 1 image of 64 visual tokens.",  # the fake's own words: it has counted
    weather="What is the weather in Paris?",
    city="Paris",
    report="Rain, 12 degrees.",
    forecast="Take an umbrella: it rains in Paris.",
    rejection="the country is missing",
    second_city="Paris, France",
    locate="Where is the red circle?",
    box=[110, 330, 460, 680],
    box_within=0,
    recite="Tell me a story.",
    recital="Once upon a time, in a café in Zürich, 私たち drank tea 🍵.\n\nThe end. 👩‍👩‍👧",
)

# In words that the model has learnt (deploy/demo/scenes). It has not learnt what to make of a tool's result.
TRAINED = Scenario(
    describe="What colour is the circle?",
    description="It is red.",
    weather="What is the weather in Paris?",
    city="Paris",
    report="Rain, 12 degrees.",
    forecast=None,
    rejection="the country is missing",
    second_city=None,
    locate="Where is the red circle?",
    box=[110, 330, 460, 680],
    box_within=100,
    recite="Hello!",
    recital="Hello! How can I help you?",
)


def fake_script() -> list[dict[str, Any]]:
    """The rules for language_server/fake_script.py that make a fake play `SCRIPTED`."""
    box = json.dumps({"bbox_2d": SCRIPTED.box})
    return [
        {"match": SCRIPTED.rejection, "answer": _call(SCRIPTED.second_city)},
        {"match": f"<tool_response>\n{SCRIPTED.report}\n</tool_response>", "answer": SCRIPTED.forecast},
        {"match": f"{_TOOLS_END}{SCRIPTED.weather}{_QUESTION_END}", "answer": _call(SCRIPTED.city)},
        {"match": f"{_IMAGE_END}{SCRIPTED.locate}{_QUESTION_END}", "answer": box},
        {"match": f"user\n{SCRIPTED.recite}{_QUESTION_END}", "answer": SCRIPTED.recital},
    ]


def _call(city: str | None) -> str:
    call = json.dumps({"name": "get_weather", "arguments": {"city": city}})
    return f"<tool_call>\n{call}\n</tool_call>"
