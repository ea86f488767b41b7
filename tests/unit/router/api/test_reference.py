"""docs/api.md tells of every field of the APIs that are served as chat completions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.api.anthropic import MessagesBody
from router.api.generation import GenerationRequest
from router.api.responses import ResponsesBody

REFERENCE = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


@pytest.mark.parametrize(("heading", "body"), [("Responses", ResponsesBody), ("Messages", MessagesBody)])
def test_every_field_is_told(heading: str, body: type[GenerationRequest]) -> None:
    section = REFERENCE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told | set(GenerationRequest.model_fields) == set(body.model_fields)
