"""The system as `epd serve --fake` starts it, in its own processes, and the official clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anthropic import Anthropic
from openai import OpenAI

from deploy.programs import demo_folder
from tests.integration.contract.asking import claude_of, client_of
from tests.integration.contract.script import RULES
from tests.serving import Served, serving

KEYS = ("key-of-alice", "key-of-bob")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Fakes that follow the script, and a router with two keys."""
    with playing(tmp_path_factory.mktemp("contract")) as served:
        yield served


@contextmanager
def playing(folder: Path, *, strict_fields: bool = False) -> Iterator[Served]:
    """Such a system; `folder` is for its files."""
    script, config = folder / "script.json", folder / "epd.toml"
    script.write_text(json.dumps(RULES))
    config.write_text(
        f"[language]\nscript = {json.dumps(str(script))}\nrate = 600\n"
        f"[router]\nstrict-fields = {json.dumps(strict_fields)}\n"
    )
    options = ["--fake", "--max-model-len", "4096", "--config", str(config)]
    options += ["--served-model-name", "demo", "--api-key", *KEYS]
    with serving(demo_folder() / "model", folder / "state.json", *options) as served:
        yield served


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[OpenAI]:
    with client_of(served, KEYS[0]) as client:
        yield client


@pytest.fixture(scope="session")
def claude(served: Served) -> Iterator[Anthropic]:
    with claude_of(served, KEYS[0]) as client:
        yield client
