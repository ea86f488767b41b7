"""Questions about media, in plain English, and only such as have one right answer that a person would give too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from deploy.demo.scenes.question import Kind, Question
from deploy.demo.scenes.scene import SHAPES, Box, Clip, Scene, Thing

_APART = 0.12  # of a side: what is left of something else is so by this much
_NOT_LEVEL = 0.05  # of the height
_LARGER = 1.25  # of two radii, so that nobody has to measure
# Name of a place -> its middle, in fractions of width and height
_PLACES = {
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
    "centre": (0.5, 0.5),
}
_AT_PLACE = 0.2  # a thing at a place is nearer than this to its middle along both axes, all others are further off than
_OFF_PLACE = 0.3

Asker = Callable[[Scene, Random], Question | None]


def ask_about(scene: Scene, kind: Kind, rng: Random) -> Question | None:
    """A question of this kind about one picture, or None if the scene has no clear answer to any."""
    return _ASKERS[kind](scene, rng)


def ask_about_pair(pair: Sequence[Scene], kind: Kind, rng: Random) -> Question | None:
    """Likewise about two pictures."""
    if kind == "more objects":
        counts = [len(scene.things) for scene in pair]
        if counts[0] == counts[1]:
            return None
        return Question(kind=kind, text="Which picture has more objects?", answer=_picture(counts[1] > counts[0]))
    assert kind == "which of two images", f"{kind} is not about two pictures"
    names = [{thing.name for thing in scene.things} for scene in pair]
    only = sorted(names[0] ^ names[1])
    name = rng.choice(only) if only else None
    if name is None:
        return None
    return Question(kind=kind, text=f"Which picture shows {_a(name)}?", answer=_picture(name in names[1]))


def ask_about_clip(clip: Clip, rng: Random) -> Question:
    """Which way its mover goes."""
    mover, *rest = clip.scene.things
    name = f"the {mover.shape}" if all(mover.shape != other.shape for other in rest) else f"the {mover.name}"
    text = rng.choice((f"Which way does {name} move?", f"In which direction does {name} move?"))
    return Question(kind="motion", text=text, answer=f"It moves {clip.way}.")


def ask_from_top(scene: Scene, rng: Random) -> Question | None:
    """For a description from top to bottom; None if two things are about as high."""
    things = sorted(scene.things, key=lambda thing: thing.y)
    if any(low.y - high.y < _NOT_LEVEL * scene.height for high, low in pairwise(things)):
        return None
    text = rng.choice(("Describe the picture from top to bottom.", "What is in this image, from top to bottom?"))
    return Question(kind="description", text=text, answer=_listed(things))


def box_text(box: Box) -> str:
    """The answer to a question for a place, in the form that Qwen3-VL uses."""
    return f'{{"bbox_2d": [{box[0]}, {box[1]}, {box[2]}, {box[3]}]}}'


def describe(things: Sequence[Thing]) -> str:
    """All things from left to right."""
    return _listed(sorted(things, key=lambda thing: thing.x))


def _listed(things: Sequence[Thing]) -> str:
    names = [_a(thing.name) for thing in things]
    if len(names) == 1:
        return f"There is {names[0]}."
    return f"There are {len(names)} objects: {', '.join(names[:-1])} and {names[-1]}."


def _shape(scene: Scene, rng: Random) -> Question | None:
    thing = _one_of_its(scene, rng, lambda thing: thing.colour)
    if thing is None:
        return None
    text = rng.choice((f"What shape is the {thing.colour} object?", f"Which shape is {thing.colour}?"))
    return Question(kind="shape", text=text, answer=f"It is a {thing.shape}.")


def _colour(scene: Scene, rng: Random) -> Question | None:
    thing = _one_of_its(scene, rng, lambda thing: thing.shape)
    if thing is None:
        return None
    text = rng.choice((f"What colour is the {thing.shape}?", f"Which colour is the {thing.shape}?"))
    return Question(kind="colour", text=text, answer=f"It is {thing.colour}.")


def _count(scene: Scene, rng: Random) -> Question:
    text = rng.choice(("How many objects are there?", "How many objects can you see?"))
    return Question(kind="count", text=text, answer=_there_are(len(scene.things), "object"))


def _count_of_one_shape(scene: Scene, rng: Random) -> Question:
    counts = Counter(thing.shape for thing in scene.things)
    # none, one, and more than one about equally often, as far as the scene has them
    number = rng.choice(sorted({0, *counts.values()}))
    shape = rng.choice([shape for shape in SHAPES if counts[shape] == number])
    text = f"How many {_plural(shape)} are there?"
    return Question(kind="count of one shape", text=text, answer=_there_are(number, shape))


def _left_or_right(scene: Scene, rng: Random) -> Question | None:
    return _relation(scene, rng, "left or right", lambda thing: thing.x / scene.width, "left of", "right of")


def _above_or_below(scene: Scene, rng: Random) -> Question | None:
    return _relation(scene, rng, "above or below", lambda thing: thing.y / scene.height, "above", "below")


def _relation(
    scene: Scene, rng: Random, kind: Kind, place: Callable[[Thing], float], before: str, after: str
) -> Question | None:
    pair = _pair(scene, rng, lambda one, other: abs(place(one) - place(other)) > _APART)
    if pair is None:
        return None
    one, other = pair
    choice = f"{before.removesuffix(' of')} or {after}"
    text = f"Is the {one.name} {choice} the {other.name}?"
    relation = before if place(one) < place(other) else after
    return Question(kind=kind, text=text, answer=f"It is {relation} the {other.name}.")


def _at_a_place(scene: Scene, rng: Random) -> Question | None:
    found = []
    for place, (x, y) in _PLACES.items():
        distances = [
            (max(abs(thing.x / scene.width - x), abs(thing.y / scene.height - y)), thing) for thing in scene.things
        ]
        distances.sort(key=lambda entry: entry[0])
        nearest, *others = distances
        if nearest[0] < _AT_PLACE and all(distance > _OFF_PLACE for distance, _ in others):
            found.append((place, nearest[1]))
    if not found:
        return None
    place, thing = rng.choice(found)
    return Question(kind="at a place", text=f"What is in the {place}?", answer=f"{_a(thing.name).capitalize()}.")


def _largest(scene: Scene, rng: Random) -> Question | None:
    first, *others = sorted(scene.things, key=lambda thing: -thing.radius)
    if not others or first.radius < others[0].radius * _LARGER:
        return None
    return Question(kind="largest", text="What is the largest object?", answer=f"The {first.name}.")


def _larger_of_two(scene: Scene, rng: Random) -> Question | None:
    pair = _pair(scene, rng, lambda one, other: max(one.radius / other.radius, other.radius / one.radius) >= _LARGER)
    if pair is None:
        return None
    one, other = pair
    larger = one if one.radius > other.radius else other
    text = f"Which is larger, the {one.name} or the {other.name}?"
    return Question(kind="larger of two", text=text, answer=f"The {larger.name}.")


def _description(scene: Scene, rng: Random) -> Question:
    text = rng.choice(("Describe the picture.", "Describe the image.", "What is in this image?", "What do you see?"))
    return Question(kind="description", text=text, answer=describe(scene.things))


def _grounding(scene: Scene, rng: Random) -> Question:
    thing = rng.choice(scene.things)
    text = rng.choice((f"Where is the {thing.name}?", f"Locate the {thing.name}."))
    return Question(kind="grounding", text=text, answer=box_text(thing.box(scene.width, scene.height)))


def _digit(scene: Scene, rng: Random) -> Question | None:
    written = [thing for thing in scene.things if thing.digit is not None]
    if not written:
        return None
    thing = rng.choice(written)
    return Question(kind="digit", text=f"Which digit is on the {thing.name}?", answer=f"The digit is {thing.digit}.")


def _follow_up(scene: Scene, rng: Random) -> Question | None:
    if rng.random() < 0.5:
        pair = _unique_pair(scene, rng, lambda thing: thing.shape)
        if pair is None:
            return None
        one, other = pair
        history = ((f"What colour is the {one.shape}?", f"It is {one.colour}."),)
        return Question(
            kind="follow-up", history=history, text=f"And the {other.shape}?", answer=f"It is {other.colour}."
        )
    pair = _unique_pair(scene, rng, lambda thing: thing.colour)
    if pair is None:
        return None
    one, other = pair
    history = ((f"What shape is the {one.colour} object?", f"It is a {one.shape}."),)
    return Question(
        kind="follow-up", history=history, text=f"And the {other.colour} one?", answer=f"It is a {other.shape}."
    )


_ASKERS: dict[Kind, Asker] = {
    "shape": _shape,
    "colour": _colour,
    "count": _count,
    "count of one shape": _count_of_one_shape,
    "left or right": _left_or_right,
    "above or below": _above_or_below,
    "at a place": _at_a_place,
    "largest": _largest,
    "larger of two": _larger_of_two,
    "description": _description,
    "grounding": _grounding,
    "digit": _digit,
    "follow-up": _follow_up,
}
PICTURE_KINDS: tuple[Kind, ...] = tuple(_ASKERS)
PAIR_KINDS: tuple[Kind, ...] = ("which of two images", "more objects")


def _one_of_its(scene: Scene, rng: Random, feature: Callable[[Thing], str]) -> Thing | None:
    """A thing that shares the feature with no other."""
    counts = Counter(map(feature, scene.things))
    only = [thing for thing in scene.things if counts[feature(thing)] == 1]
    return rng.choice(only) if only else None


def _unique_pair(scene: Scene, rng: Random, feature: Callable[[Thing], str]) -> tuple[Thing, Thing] | None:
    counts = Counter(map(feature, scene.things))
    only = [thing for thing in scene.things if counts[feature(thing)] == 1]
    if len(only) < 2:
        return None
    one, other = rng.sample(only, 2)
    return one, other


def _pair(scene: Scene, rng: Random, fits: Callable[[Thing, Thing], bool]) -> tuple[Thing, Thing] | None:
    pairs = [(one, other) for one in scene.things for other in scene.things if one is not other and fits(one, other)]
    return rng.choice(pairs) if pairs else None


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def _there_are(number: int, noun: str) -> str:
    return f"There is 1 {noun}." if number == 1 else f"There are {number} {_plural(noun)}."


def _picture(second: bool) -> str:
    return f"The {'second' if second else 'first'} picture."
