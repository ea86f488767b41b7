"""Questions without any picture: so that sums, tools and thinking can be tried for real."""

from __future__ import annotations

import json
from random import Random

from deploy.demo.scenes.question import Kind, Question, Tool

GREETINGS = {
    "Hello!": "Hello! How can I help you?",
    "Hi": "Hello! How can I help you?",
    "Good morning.": "Good morning! How can I help you?",
    "How are you?": "I am fine, thank you. How can I help you?",
    "Who are you?": "I am a small model that can see coloured shapes.",
    "What can you do?": "I can answer questions about coloured shapes.",
    "Thank you!": "You're welcome!",
    "Goodbye!": "Goodbye, and have a nice day!",
}
CITIES = ("Paris", "London", "Berlin", "Madrid", "Rome", "Tokyo")
WEATHER = Tool(name="get_weather", description="Get the weather in a city.", parameters=("city",))
TALK_KINDS: tuple[Kind, ...] = ("greeting", "sum", "tool call", "thought")


def talk(kind: Kind, rng: Random) -> Question:
    """A question of one of `TALK_KINDS`."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    match kind:
        case "greeting":
            text, answer = rng.choice(tuple(GREETINGS.items()))
            return Question(kind=kind, text=text, answer=answer)
        case "sum":
            return Question(kind=kind, text=f"What is {a} plus {b}?", answer=f"{a} plus {b} is {a + b}.")
        case "tool call":
            city = rng.choice(CITIES)
            call = json.dumps({"name": WEATHER.name, "arguments": {"city": city}})
            return Question(
                kind=kind,
                text=f"What is the weather in {city}?",
                answer=f"<tool_call>\n{call}\n</tool_call>",
                tools=(WEATHER,),
            )
        case "thought":
            return Question(
                kind=kind,
                text=f"Think first: what is {a} plus {b}?",
                answer=f"<think>\n{a} plus {b} is {a + b}.\n</think>\n\n{a + b}",
            )
        case _:
            raise AssertionError(f"{kind} needs a picture")
