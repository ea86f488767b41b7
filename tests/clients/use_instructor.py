"""instructor, over OpenAI's client."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Annotated

import instructor
from openai import OpenAI
from pydantic import AfterValidator, BaseModel

from tests.clients import steps


class Box(BaseModel):
    bbox_2d: list[int]


def client(scenario: SimpleNamespace, mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=f"{scenario.url}/v1", api_key=scenario.key), mode=mode)


def image(scenario: SimpleNamespace) -> None:
    """instructor's own form of an image; without a response model it passes the answer on."""
    answer = client(scenario, instructor.Mode.TOOLS).chat.completions.create(
        model=scenario.model,
        response_model=None,
        messages=[{"role": "user", "content": [instructor.Image.from_path(scenario.image), scenario.describe]}],
    )
    steps.check("the answer", answer.choices[0].message.content, scenario.description)


def tool(scenario: SimpleNamespace) -> None:
    """A forced call. Where the scenario knows of a second one, the first is rejected and the model told why."""

    def with_country(city: str) -> str:
        if scenario.second_city is not None and city != scenario.second_city:
            raise ValueError(scenario.rejection)
        return city

    class get_weather(BaseModel):
        """Get the weather in a city."""

        city: Annotated[str, AfterValidator(with_country)]

    call = client(scenario, instructor.Mode.TOOLS).chat.completions.create(
        model=scenario.model,
        response_model=get_weather,
        max_retries=2,
        messages=[{"role": "user", "content": scenario.weather}],
    )
    steps.check("the call", call.city, scenario.second_city or scenario.city)


def structured(scenario: SimpleNamespace) -> None:
    box = client(scenario, instructor.Mode.JSON_SCHEMA).chat.completions.create(
        model=scenario.model, response_model=Box, messages=steps.question_with_image(scenario, scenario.locate)
    )
    steps.check_box(scenario, box.bbox_2d)


def stream(scenario: SimpleNamespace) -> None:
    """The call's argument grows while it is written."""

    class get_weather(BaseModel):
        """Get the weather in a city."""

        city: str

    parts = list(
        client(scenario, instructor.Mode.TOOLS).chat.completions.create_partial(
            model=scenario.model,
            response_model=get_weather,
            messages=[{"role": "user", "content": scenario.weather}],
        )
    )
    steps.check("the call", parts[-1].city, scenario.city)
    assert len(parts) > 1


if __name__ == "__main__":
    sys.exit(steps.main(image, tool, structured, stream))
