"""What the command line makes of its words before a role starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cli import _with_demo
from deploy.programs import demo_folder
from encode_server.config import EncodeConfig
from encode_server.fake import FakeEncodeConfig
from router.config import RouterConfig

MODEL = demo_folder() / "model"


def test_the_demo_is_a_model_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert _with_demo(EncodeConfig(model="demo"), is_fake=False).model == str(MODEL)
    assert _with_demo(FakeEncodeConfig(model=Path("demo")), is_fake=True).model == MODEL
    assert _with_demo(FakeEncodeConfig(), is_fake=True).model == MODEL
    for other in ("org/demo", "./demo", "model"):
        assert _with_demo(EncodeConfig(model=other), is_fake=False).model == other
    router = RouterConfig()
    assert _with_demo(router, is_fake=False) is router
    (tmp_path / "demo").mkdir()
    assert _with_demo(EncodeConfig(model="demo"), is_fake=False).model == "demo", "a folder here comes first"
