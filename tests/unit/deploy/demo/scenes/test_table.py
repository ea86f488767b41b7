from __future__ import annotations

from deploy.demo.scenes.question import Question
from deploy.demo.scenes.table import rows, table

QUESTIONS = [
    Question(kind="colour", text="?", answer="It is red."),
    Question(kind="grounding", text="?", answer='{"bbox_2d": [0, 0, 100, 100]}'),
    Question(kind="colour", text="?", answer="It is blue."),
    Question(kind="greeting", text="Hi", answer="Hello!"),
]


def test_rows_and_targets() -> None:
    result = rows(QUESTIONS, ["It is red.", '{"bbox_2d": [0, 0, 100, 80]}', "It is red.", ""])
    assert [(row.kind, row.items, row.right, row.iou, row.reached) for row in result] == [
        ("colour", 2, 0.5, None, False),
        ("grounding", 1, 1.0, 0.8, False),  # found, but not as exactly as it should be
        ("greeting", 1, 0.0, None, True),  # no target
    ]


def test_the_table_has_a_column_for_each_run() -> None:
    truth = [question.answer for question in QUESTIONS]
    lines = table({"right": rows(QUESTIONS, truth), "blind": rows(QUESTIONS, [""] * 4)}).splitlines()
    assert lines[0] == "| question | items | right | blind | target |"
    assert lines[2] == "| colour | 2 | 100.0% | 0.0% | 95% |"
    assert lines[3] == "| grounding | 1 | 100.0%, IoU 1.00 | 0.0%, IoU 0.00 | 95%, IoU 0.83 |"
    assert len(lines) == 5
