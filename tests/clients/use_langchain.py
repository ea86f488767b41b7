"""LangChain's `ChatOpenAI`, by itself and in an agent."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool as as_tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.clients import steps


class Box(BaseModel):
    """Where a thing is."""

    bbox_2d: list[int]


@as_tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    raise AssertionError(f"the script has the result for {city}")


def chat(scenario: SimpleNamespace) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{scenario.url}/v1", api_key=scenario.key, model=scenario.model, temperature=0)


def with_image(scenario: SimpleNamespace, question: str) -> HumanMessage:
    """LangChain's own form of an image."""
    data = steps.image_base64(scenario)
    picture = {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"}
    return HumanMessage(content=[picture, {"type": "text", "text": question}])


def image(scenario: SimpleNamespace) -> None:
    answer = chat(scenario).invoke([with_image(scenario, scenario.describe)])
    steps.check("the answer", answer.content, scenario.description)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def tool(scenario: SimpleNamespace) -> None:
    model = chat(scenario).bind_tools([get_weather])
    question = HumanMessage(content=scenario.weather)
    calling = model.invoke([question])
    (call,) = calling.tool_calls
    steps.check("the call", (call["name"], call["args"]), ("get_weather", {"city": scenario.city}))
    result = ToolMessage(content=scenario.report, tool_call_id=call["id"])
    steps.check("the answer", model.invoke([question, calling, result]).content, scenario.forecast)


def structured(scenario: SimpleNamespace) -> None:
    box = (
        chat(scenario).with_structured_output(Box, method="json_schema").invoke([with_image(scenario, scenario.locate)])
    )
    assert isinstance(box, Box)
    steps.check_box(scenario, box.bbox_2d)


def stream(scenario: SimpleNamespace) -> None:
    chunks = list(chat(scenario).stream(scenario.recite, stream_usage=True))
    steps.check_stream(scenario, [chunk.content for chunk in chunks if chunk.content])
    assert any(chunk.usage_metadata for chunk in chunks)


def streamed_tool(scenario: SimpleNamespace) -> None:
    whole = None
    for chunk in chat(scenario).bind_tools([get_weather]).stream(scenario.weather):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    steps.check("the call", (call["name"], call["args"]), ("get_weather", {"city": scenario.city}))


def agent(scenario: SimpleNamespace) -> None:
    """It calls the function by itself and goes on with the result."""
    cities: list[str] = []

    @as_tool("get_weather")
    def forecast(city: str) -> str:
        """Get the weather in a city."""
        cities.append(city)
        return str(scenario.report)

    state = create_agent(chat(scenario), tools=[forecast]).invoke({"messages": [("user", scenario.weather)]})
    steps.check("the calls", cities, [scenario.city])
    steps.check("the answer", state["messages"][-1].content, scenario.forecast)


def responses(scenario: SimpleNamespace) -> None:
    """The same over /v1/responses."""
    model = ChatOpenAI(
        base_url=f"{scenario.url}/v1", api_key=scenario.key, model=scenario.model, use_responses_api=True
    )
    answer = model.invoke([with_image(scenario, scenario.describe)])
    steps.check("the answer", answer.text, scenario.description)


if __name__ == "__main__":
    sys.exit(steps.main(image, tool, structured, stream, streamed_tool, agent, responses))
