"""A PNG of sample questions for people who would rather look: picture, question, answer, truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from deploy.demo.scenes.drawing import draw, draw_clip
from deploy.demo.scenes.question import Case, Question
from deploy.demo.scenes.scene import BOX_UNITS, Clip
from deploy.demo.scenes.scoring import is_right, parse_box

_COLUMNS = 4
_CELL = (330, 330)
_PICTURE = 200  # pixels of a cell's height
_FONT_SIZE = 13
_LONGEST = 110  # characters of an answer; a model that rambles is not worth more
_FRAME = (200, 200, 200)
_RIGHT, _WRONG, _TRUTH = (20, 120, 40), (190, 30, 30), (20, 120, 40)


def write_sheet(path: Path, cases: Sequence[Case], answers: Sequence[str]) -> None:
    """One cell for each case with a picture; boxes are drawn: the true one green, the answer's red.

    Args:
        cases: of one question each.
        answers: to those.
    """
    shown = [(case, answer) for case, answer in zip(cases, answers, strict=True) if case.scenes]
    lines = (len(shown) + _COLUMNS - 1) // _COLUMNS
    sheet = Image.new("RGB", (_COLUMNS * _CELL[0], max(1, lines) * _CELL[1]), "white")
    for index, (case, answer) in enumerate(shown):
        place = (index % _COLUMNS * _CELL[0], index // _COLUMNS * _CELL[1])
        sheet.paste(_cell(case, answer), place)
    sheet.save(path)


def _cell(case: Case, answer: str) -> Image.Image:
    (question,) = case.questions
    cell = Image.new("RGB", _CELL, "white")
    canvas = ImageDraw.Draw(cell)
    cell.paste(_picture(case, question, answer), (8, 8))
    font = ImageFont.load_default(_FONT_SIZE)
    earlier = [line for turn in question.history for line in turn]
    asked = " / ".join([*earlier, question.text])
    colour = _RIGHT if is_right(question, answer) else _WRONG
    y = _PICTURE + 16
    for text, ink in ((asked, (0, 0, 0)), (_cut(answer), colour), (f"truth: {question.answer}", (110, 110, 110))):
        for line in _wrap(text, font, _CELL[0] - 16):
            canvas.text((8, y), line, fill=ink, font=font)
            y += _FONT_SIZE + 3
    return cell


def _picture(case: Case, question: Question, answer: str) -> Image.Image:
    """The media side by side, as large as fits; of a clip its first and its last frame."""
    if isinstance(case.media, Clip):
        frames = draw_clip(case.media)
        pictures = [Image.fromarray(frames[0]), Image.fromarray(frames[-1])]
    else:
        pictures = [Image.fromarray(draw(scene)) for scene in case.media]
    if question.kind == "grounding":
        for text, ink in ((question.answer, _TRUTH), (answer, _WRONG)):
            _outline(pictures[0], text, ink)
    width = (_CELL[0] - 16 - 6 * (len(pictures) - 1)) // len(pictures)
    for picture in pictures:
        picture.thumbnail((width, _PICTURE))
    row = Image.new("RGB", (_CELL[0] - 16, _PICTURE), "white")
    for index, picture in enumerate(pictures):
        ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_FRAME)
        row.paste(picture, (index * (width + 6), 0))
    return row


def _outline(picture: Image.Image, text: str, ink: tuple[int, int, int]) -> None:
    box = parse_box(text)
    if box is None or box[0] > box[2] or box[1] > box[3]:
        return
    sides = (picture.width, picture.height, picture.width, picture.height)
    corners = [value * side / BOX_UNITS for value, side in zip(box, sides, strict=True)]
    ImageDraw.Draw(picture).rectangle(corners, outline=ink, width=2)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
