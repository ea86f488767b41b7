"""Tools as clients spell them: each library adds keys of its own to the schema that it sends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from deploy.demo.scenes.question import Question, Tool

_NAMES = ("weather", "get_current_weather", "getWeather", "weather_report")
_PARAMETERS = ("location", "place", "town")
_DESCRIPTIONS = (
    "Get the weather in a city.",
    "Get the current weather.",
    "Tells the weather at a place.",
    "The weather of today in the given city, in one line.",
    "",
)
_DRAFT = "http://json-schema.org/draft-07/schema#"
_OTHER_DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, kw_only=True)
class SpelledTool(Tool):
    """With `of_function` beside name and description, `of_parameters` in the schema, `of_property` in each parameter's,
    the keys of the schema in the order of `order`."""

    of_function: dict[str, Any]
    of_parameters: dict[str, Any]
    of_property: dict[str, Any]
    order: tuple[str, ...]

    def schema(self) -> dict[str, object]:
        properties = {name: {**self.of_property, "type": "string"} for name in self.parameters}
        keys = {"type": "object", "properties": properties, "required": list(self.parameters), **self.of_parameters}
        parameters = {key: keys[key] for key in self.order if key in keys}
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": parameters,
            **self.of_function,
        }
        return {"type": "function", "function": function}


def respell(question: Question, rng: Random) -> Question:
    """The same question with its one tool spelled in another way, mostly under the same name; the answer follows."""
    (tool,) = question.tools
    (parameter,) = tool.parameters
    name = rng.choice(_NAMES) if rng.random() < 0.3 else tool.name
    argument = rng.choice(_PARAMETERS) if rng.random() < 0.3 else parameter
    spelled = SpelledTool(
        name=name,
        description=tool.description if rng.random() < 0.5 else rng.choice(_DESCRIPTIONS),
        parameters=(argument,),
        of_function={"strict": rng.random() < 0.5} if rng.random() < 0.3 else {},
        of_parameters=_some_of({"additionalProperties": False, "$schema": rng.choice((_DRAFT, _OTHER_DRAFT))}, rng),
        of_property=_some_of({"description": "Name of the city", "title": argument.capitalize()}, rng),
        order=tuple(rng.sample(("type", "properties", "required", "additionalProperties", "$schema"), k=5)),
    )
    answer = question.answer.replace(f'"{tool.name}"', f'"{name}"').replace(f'"{parameter}"', f'"{argument}"')
    return replace(question, answer=answer, tools=(spelled,))


def _some_of(entries: dict[str, Any], rng: Random) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if rng.random() < 0.4}
