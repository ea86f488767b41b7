"""What is asked and what is right: the types shared by questions, training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploy.demo.scenes.scene import Clip, Scene

Kind = Literal[
    "shape",
    "colour",
    "count",
    "count of one shape",
    "left or right",
    "above or below",
    "at a place",
    "largest",
    "larger of two",
    "description",
    "grounding",
    "digit",
    "follow-up",
    "which of two images",
    "more objects",
    "motion",
    "greeting",
    "sum",
    "tool call",
    "thought",
]
Media = tuple[Scene, ...] | Clip  # pictures in their order, or one clip; () for text alone


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that the model may call; its parameters are strings."""

    name: str
    description: str
    parameters: tuple[str, ...]

    def schema(self) -> dict[str, object]:
        """As OpenAI's API takes it."""
        properties = {name: {"type": "string"} for name in self.parameters}
        parameters = {"type": "object", "properties": properties, "required": list(self.parameters)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, kw_only=True)
class Question:
    """`history` has the (question, answer) pairs of earlier turns; the media belong to the first turn."""

    kind: Kind
    text: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """Media and what is asked about them, each question on its own."""

    media: Media
    questions: tuple[Question, ...]

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The pictures, or the first frame of the clip."""
        return (self.media.scene,) if isinstance(self.media, Clip) else self.media
