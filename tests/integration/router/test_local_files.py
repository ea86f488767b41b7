"""file:// URLs: only below the folder that an option names, and nothing without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.router.system import CONFIG, says, system


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "cat.png").write_bytes(b"cat")
    (folder / "empty.png").write_bytes(b"")
    (folder / "large.png").write_bytes(bytes(2001))
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "out.png").symlink_to("../secret.png")
    return folder


async def test_what_is_in_the_folder(folder: Path) -> None:
    config = replace(CONFIG, allowed_local_media_path=folder, max_media_bytes=2000)
    async with system(says("ok"), config=config) as (router, _, (encode,)):
        film = {"type": "video_url", "video_url": {"url": f"file://{folder}/cat.png"}}
        frames = {"type": "video", "video": [f"file://{folder}/cat.png"] * 2}
        for part in (picture(f"file://{folder}/cat.png"), film, frames):
            response = await router.chat([part])
            assert response.status_code == 200, response.text
        assert encode.uploads == [b"cat", b"cat", b"catcat"]
        for name, reason in (
            ("empty.png", "no bytes"),
            ("large.png", "2000 bytes"),
            ("missing.png", "can't be read"),
            ("out.png", "not in the folder"),
            ("../secret.png", "not in the folder"),
            ("", "not a regular file"),
        ):
            response = await router.chat([picture(f"file://{folder}/{name}")])
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (400, "invalid_media"), name
            assert error["param"] == "messages[0].content[0]"
            assert reason in error["message"]
            assert str(folder) not in error["message"]
        assert router.services.budget.used == 0


async def test_without_the_option(folder: Path) -> None:
    async with system(says("ok")) as (router, _, (encode,)):
        response = await router.chat([picture(f"file://{folder}/cat.png")])
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "messages[0].content[0]")
        assert "--allowed-local-media-path" in error["message"]
        assert not encode.opened
