"""pydantic-ai, with its model for OpenAI's chat API."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients import steps


class Box(BaseModel):
    bbox_2d: list[int]


def chat(scenario: SimpleNamespace) -> OpenAIChatModel:
    provider = OpenAIProvider(base_url=f"{scenario.url}/v1", api_key=scenario.key)
    return OpenAIChatModel(scenario.model, provider=provider)


def picture(scenario: SimpleNamespace) -> BinaryContent:
    return BinaryContent(data=Path(scenario.image).read_bytes(), media_type="image/png")


def image(scenario: SimpleNamespace) -> None:
    result = Agent(chat(scenario)).run_sync([picture(scenario), scenario.describe])
    steps.check("the answer", result.output, scenario.description)


def tool(scenario: SimpleNamespace) -> None:
    """The agent calls the function by itself and goes on with the result."""
    agent = Agent(chat(scenario))
    cities: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        cities.append(city)
        return str(scenario.report)

    # The demo's model has not learnt to talk about results, and may not find an end.
    result = agent.run_sync(scenario.weather, model_settings={"temperature": 0.0, "max_tokens": 100})
    steps.check("the calls", cities, [scenario.city])
    steps.check("the answer", result.output, scenario.forecast)


def structured(scenario: SimpleNamespace) -> None:
    agent = Agent(chat(scenario), output_type=NativeOutput(Box))
    steps.check_box(scenario, agent.run_sync([picture(scenario), scenario.locate]).output.bbox_2d)


def stream(scenario: SimpleNamespace) -> None:
    async def pieces() -> list[str]:
        async with Agent(chat(scenario)).run_stream(scenario.recite) as run:
            return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]

    steps.check_stream(scenario, asyncio.run(pieces()))


if __name__ == "__main__":
    sys.exit(steps.main(image, tool, structured, stream))
