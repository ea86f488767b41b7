"""What has to hold whoever answers: each test here runs on the fakes, by script, and on the checkpoint that sees.

The script has for the questions of these tests the answers that the checkpoint has learnt. In front of both stand two
routers: one as most people run it, and a guarded one, with the options that most people leave alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from deploy.programs import demo_folder
from tests.integration.contract.asking import claude_of, client_of
from tests.integration.contract.media import web_server
from tests.integration.either.questions import SCRIPT, VIDEO
from tests.integration.seeing.pictures import IMAGE
from tests.serving import Served, routing, serving

ALICE, BOB = "key-of-alice", "key-of-bob"
CAROL, CECIL = "key-of-carol", "key-of-cecil"  # of the guarded router, from its file
DAVE, DORA = "key-of-dave", "key-of-dora"  # likewise, from its environment
PAGE = "https://chat.example.org"
PIXELS = 1024 * 1024  # of an image; the demo's own limit is as low as that of `detail: low`
TEMPLATE_MARK = "<|im_start|>system\nThe guarded one"


def roomy_checkpoint(folder: Path) -> Path:
    """The demo's, which sees images of up to `PIXELS` as they are."""
    model = folder / "roomy"
    model.mkdir()
    for file in (demo_folder() / "model").iterdir():
        (model / file.name).symlink_to(file)
    config = model / "preprocessor_config.json"
    told = json.loads(config.read_text())
    told["size"]["longest_edge"] = PIXELS
    config.unlink()
    config.write_text(json.dumps(told))
    return model


def guarded_template() -> str:
    """The demo's, with a system message of its own, and a way not to think."""
    own = (demo_folder() / "model" / "chat_template.jinja").read_text()
    begin = f"{{{{- '{TEMPLATE_MARK}' ~ (', ' ~ shout if shout else '') ~ '<|im_end|>\n' }}}}".replace("\n", "\\n")
    end = "{%- if add_generation_prompt and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    return begin + own.rstrip("\n") + end


@pytest.fixture(scope="session", params=["fakes", "seeing"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With two names of the model, two keys, and a folder of images."""
    folder = tmp_path_factory.mktemp(f"either-{request.param}")
    script, config = folder / "script.json", folder / "epd.toml"
    script.write_text(json.dumps(SCRIPT))
    router = (
        "[router]\nallow-private-media = true\nmedia-timeout-seconds = 3\nmedia-stall-seconds = 1\n"
        f"allowed-local-media-path = {json.dumps(str(demo_folder() / 'images'))}\n"
    )
    if request.param == "fakes":
        options = ["--fake"]
        config.write_text(f"[language]\nscript = {json.dumps(str(script))}\nrate = 600\n{router}")
    else:
        options = ["--dtype", "float32", "--kv-cache-bytes", "64MiB"]
        config.write_text(router)
    options += ["--max-model-len", "4096", "--config", str(config)]
    options += ["--served-model-name", "demo", "org/demo", "--api-key", ALICE, BOB]
    with serving(roomy_checkpoint(folder), folder / "state.json", *options) as served:
        yield served


@pytest.fixture(scope="session")
def guarded(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """In front of the same servers; see the module."""
    folder = tmp_path_factory.mktemp("guarded")
    keys, template = folder / "keys", folder / "template.jinja"
    keys.write_text(f"# who may ask\n{CAROL}\n{CECIL}\n")
    template.write_text(guarded_template())
    options = ["--served-model-name", "demo", "--api-key-file", str(keys), "--chat-template", str(template)]
    options += ["--strict-fields", "--cors-origins", PAGE, "--keep-alive-seconds", "0.2", "--max-requests", "1"]
    options += ["--max-body-bytes", "64KiB", "--max-header-bytes", "4KiB", "--max-media-bytes", "16KiB"]
    with routing(
        served, folder / "state.json", *options, environment={"EPD_ROUTER_API_KEY": f"{DAVE},{DORA}"}
    ) as router:
        yield router


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[OpenAI]:
    with client_of(served, ALICE) as client:
        yield client


@pytest.fixture(scope="session")
def bob(served: Served) -> Iterator[OpenAI]:
    with client_of(served, BOB) as client:
        yield client


@pytest.fixture(scope="session")
def carol(guarded: Served) -> Iterator[OpenAI]:
    """Asks the guarded one."""
    with client_of(guarded, CAROL) as client:
        yield client


@pytest.fixture(scope="session")
def claude(served: Served) -> Iterator[Anthropic]:
    with claude_of(served, ALICE) as client:
        yield client


@pytest.fixture(scope="session")
def web() -> Iterator[str]:
    files: dict[str, Any] = {"/picture.png": ("image/png", IMAGE), "/clip.mp4": ("video/mp4", VIDEO)}
    with web_server(files) as url:
        yield url
