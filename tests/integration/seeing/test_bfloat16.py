"""As most people run it: what of a request decides is decided in bfloat16, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from deploy.programs import demo_folder
from tests.integration.contract.asking import ask, client_of
from tests.integration.seeing.pictures import PICTURE, seen
from tests.serving import serving


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("bfloat16")
    options = ["--dtype", "bfloat16", "--served-model-name", "demo", "--kv-cache-bytes", "64MiB"]
    with serving(demo_folder() / "model", folder / "state.json", *options) as served, client_of(served) as client:
        yield client


def test_answers_and_draws(client: OpenAI) -> None:
    content = seen("What is in this image?", PICTURE)
    (choice,) = ask(client, content, temperature=0).choices
    assert choice.message.content == "There are 2 objects: a red circle and a blue square."
    hot = {"temperature": 2.0, "n": 3, "max_tokens": 12}
    draws = [[one.message.content for one in ask(client, content, seed=seed, **hot).choices] for seed in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1
