"""The sentences that the demo's tokenizer learns its merges from.

Plain English about coloured shapes, small talk, sums, JSON and a little code: what the demo's model is asked and
answers, and enough ordinary words that other text does not fall apart into single bytes.
"""
# ruff: noqa: E501  sentences are long

from __future__ import annotations

import json
import random
from collections.abc import Iterator

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "diamond", "hexagon", "cross", "ring", "heart", "arrow")
PLURALS = tuple("crosses" if shape == "cross" else shape + "s" for shape in SHAPES)
SIZES = ("small", "large", "tiny", "medium", "big")
PLACES = ("left of", "right of", "above", "below", "next to", "inside", "behind", "in front of", "between")
REGIONS = ("top left", "top right", "bottom left", "bottom right", "centre", "middle", "upper half", "lower half")
WAYS = ("left", "right", "up", "down")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# {c} {d}: colours; {s} {u}: shapes; {p}: a plural; {z}: a size; {r}: a relation; {g}: a region; {w}: a way;
# {n}: a number word; {i} {j} {k}: integers; {b}: a box
SCENES = (
    "What is in the picture? There is a {z} {c} {s} in the {g}.",
    "What colour is the {s}? The {s} is {c}.",
    "Which shape is {c}? It is a {s}.",
    "How many {p} are there? There are {n} {p}.",
    "How many objects can you see in this image? I can see {n} objects.",
    "Is the {c} {s} {r} the {d} {u}? Yes, it is. No, it is not.",
    "Where is the {c} {s}? The {c} {s} is {r} the {d} {u}.",
    'Where is the {c} {s}? {{"bbox_2d": {b}, "label": "{c} {s}"}}',
    "Locate every {s} and answer with boxes as JSON: [{b}, {b}].",
    "Describe the image. The image shows a {c} {s} on a {d} background, with a {z} {d} {u} {r} it.",
    "Describe the picture in one sentence. A {z} {c} {s} and a {z} {d} {u} lie on a {c} background.",
    "Which of the two pictures has more {p}? The first picture has more {p} than the second one.",
    "Compare the two images: which one shows a {c} {s}? The {c} {s} is in the second image.",
    "What is the largest object? The largest object is the {c} {s}.",
    "Which is larger, the {c} {s} or the {d} {u}? The {d} {u} is larger.",
    "Which way does the {s} move in the video? The {s} moves {w}.",
    "What happens in the clip? A {c} {s} moves from the {g} to the {g}, then it stops.",
    "What digit is written in the {c} {s}? The digit is {i}.",
    "And what about the {u}? It is {d} too.",
    "There is no {s} in this image, so I cannot tell its colour.",
)
TALK = (
    "Hello! How are you today? I am fine, thank you. How can I help you?",
    "Good morning. Good evening. Good night. Goodbye, and have a nice day!",
    "Please answer the question with a single word. Please explain your answer step by step.",
    "You are a helpful assistant. You can see images and videos, and you answer questions about them.",
    "What is {i} plus {j}? The sum is {k}. What is {i} times {j}? What is {i} minus {j}?",
    "I don't know. I'm sorry, but I can't do that. That's right. It's not what you're looking for. We'll see. They've gone.",
    "Thank you very much. You're welcome! Yes, of course. No, not really. Maybe. Let me think about that for a moment.",
    "The weather in the city is sunny today, with a temperature of {i} degrees. Tomorrow there will be some rain.",
    "Once upon a time there was a little house near the river, where an old man lived with his daughter and three cats.",
    "People work from Monday to Friday; on Saturday and Sunday they meet their friends and family, read books, or play games.",
    "January, February, March, April, May, June, July, August, September, October, November, December, in the year 20{i}.",
    "The server sends the request to another machine over the network and waits for the answer before the time is up.",
    "To write a good program, first make it work, then make it right, and after that make it fast, if it has to be fast.",
    "She said that he would have come earlier if somebody had told him about the change of the plan before the meeting.",
    "Which language do you speak? I speak English, French, German, Spanish, Chinese and a few other languages.",
    "The world is large and full of different countries, each with its own history, its own food and its own music.",
    "First, we look at the picture. Second, we count the objects. Third, we compare their colours. Finally, we answer.",
    "Could you tell me which of these is the best? It depends on what you want: this one is cheap, that one is better.",
    "Every system should be simple enough that people can understand how each part of it works and why it is there.",
    "system\nYou are a helpful assistant.\nuser\nHello\nassistant\nHello! What can I do for you?\n",
    "user\nIs there a {c} {s}?\nassistant\nNo, there is a {d} one.\nuser\nThanks!\nassistant\nYou're welcome!\n",
    "Use the tool to get the current information. The function returns a result, and the result is shown to the user.",
)
CODE = (
    "def {s}_area(width: int, height: int) -> int:\n    return width * height\n",
    "for index in range({i}):\n    if index % 2 == 0:\n        print(index, values[index])\n    else:\n        continue\n",
    "import json\nfrom pathlib import Path\n\ndata = json.loads(Path('data.json').read_text())\n",
    "class {S}:\n    def __init__(self, colour, size):\n        self.colour = colour\n        self.size = size\n",
    "async def main():\n    result = await client.get('https://example.com/{s}/{i}')\n    assert result.status_code == 200, result.text\n",
    "| name | value |\n|---|---|\n| {s} | {i} |\n\n* {c} {s}\n* {d} {u}\n\n1. first\n2. second\n",
    "try:\n    value = float(text)\nexcept ValueError as error:\n    raise SystemExit(f'not a number: {{error}}')\n",
)


def sentences(count: int = 6000, seed: int = 0) -> Iterator[str]:
    """`count` texts; the same ones for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.choices(("scene", "talk", "code", "json"), weights=(5, 3, 1, 1))[0]
        if kind == "json":
            yield _tool_call(rng)
            continue
        template = rng.choice({"scene": SCENES, "talk": TALK, "code": CODE}[kind])
        shape, i, j = rng.choice(SHAPES), rng.randint(0, 99), rng.randint(0, 99)
        yield template.format(
            c=rng.choice(COLOURS),
            d=rng.choice(COLOURS),
            s=shape,
            S=shape.title(),
            u=rng.choice(SHAPES),
            p=rng.choice(PLURALS),
            z=rng.choice(SIZES),
            r=rng.choice(PLACES),
            g=rng.choice(REGIONS),
            w=rng.choice(WAYS),
            n=rng.choice(NUMBERS),
            i=i,
            j=j,
            k=i + j,
            b=_box(rng),
        )


def _box(rng: random.Random) -> list[int]:
    left, top = rng.randint(0, 800), rng.randint(0, 800)
    return [left, top, left + rng.randint(20, 200), top + rng.randint(20, 200)]


def _tool_call(rng: random.Random) -> str:
    name = rng.choice(("get_weather", "get_time", "search", "add_numbers", "find_object"))
    arguments = {"location": "Paris, France", "unit": rng.choice(("celsius", "fahrenheit")), "count": rng.randint(0, 9)}
    schema = {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Get the {rng.choice(('weather', 'time', 'number', 'result'))} for a given {rng.choice(SHAPES)}.",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string"}, "value": {"type": "integer"}},
                "required": ["location"],
            },
        },
    }
    return json.dumps(rng.choice(({"name": name, "arguments": arguments}, schema)))
