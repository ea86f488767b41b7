"""`epd serve` with the demo's checkpoint, which sees: answers that a person can check, through all processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anthropic import Anthropic
from openai import OpenAI

from deploy.programs import demo_folder
from tests.integration.contract.asking import claude_of, client_of
from tests.serving import Served, serving


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """In float32, in which answers are the reference's to the token."""
    folder = tmp_path_factory.mktemp("seeing")
    config = folder / "epd.toml"
    config.write_text("[router]\nallow-private-media = true\n")
    options = ["--config", str(config)]
    options += ["--dtype", "float32", "--served-model-name", "demo", "--kv-cache-bytes", "64MiB"]
    with serving(demo_folder() / "model", folder / "state.json", *options) as served:
        yield served


@pytest.fixture(scope="session")
def client(seeing: Served) -> Iterator[OpenAI]:
    with client_of(seeing) as client:
        yield client


@pytest.fixture(scope="session")
def claude(seeing: Served) -> Iterator[Anthropic]:
    with claude_of(seeing) as client:
        yield client
