from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import Gauge

from common.errors import BadMediaError, OverloadedError
from router.media.budget import ByteBudget, Hold
from router.media.files import LocalFiles
from router.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    with closing(Threads(ThreadPoolExecutor(1, "files"))) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files, links and traps in it, and secrets beside it."""
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "a b#.png").write_bytes(b"image")
    (root / "inner" / "deep.png").write_bytes(b"deep")
    (root / "link.png").symlink_to("inner/deep.png")
    (root / "escape.png").symlink_to(tmp_path / "secret")
    (root / "way-out").symlink_to(tmp_path)
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "x.png").write_bytes(b"secret")
    return root


def hold(capacity: int = 1 << 20) -> Hold:
    return Hold(ByteBudget(capacity, Gauge("bytes", "", registry=None)))


async def test_what_may_be_read(root: Path, threads: Threads) -> None:
    budget = ByteBudget(100, Gauge("bytes", "", registry=None))
    files = LocalFiles(root, timeout=5.0, threads=threads)
    for path, body in (
        (f"{root}/a%20b%23.png", b"image"),
        (f"{root}/inner/deep.png", b"deep"),
        (f"{root}/link.png", b"deep"),
        (f"{root}/inner/../link.png", b"deep"),
    ):
        for start in ("file://", "file://localhost", "FILE://"):
            mine = Hold(budget)
            assert await files.read(start + path, limit=5, hold=mine) == body
            assert budget.used == len(body)
            mine.release()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file://{root}/../secret", "not in the folder"),
        ("file://{root}/%2e%2e/secret", "not in the folder"),
        ("file://{root}/escape.png", "not in the folder"),
        ("file://{root}/way-out/secret", "not in the folder"),
        ("file://{root}ed/x.png", "not in the folder"),
        ("file:///etc/passwd", "not in the folder"),
        ("file:///no/such/file", "not in the folder"),
        ("file://{root}/circle", "not in the folder|can't be read"),
        ("file://{root}/missing.png", "can't be read"),
        ("file://{root}/inner", "not a regular file"),
        ("file://{root}", "not a regular file"),
        ("file://{root}/pipe", "not a regular file"),
        ("file://{root}/a b#.png", "fragment"),
        ("file://{root}/inner/deep.png?x", "query"),
        ("file://example.org{root}/inner/deep.png", "of this machine"),
        ("file:inner/deep.png", "of this machine"),
        ("file://{root}/inner%00/deep.png", "of this machine"),
        ("file://{root}/%ff%fe", "valid"),
        ("file://[{root}/x", "valid"),
    ],
)
async def test_what_may_not(root: Path, threads: Threads, url: str, reason: str) -> None:
    files = LocalFiles(root, timeout=5.0, threads=threads)
    with pytest.raises(BadMediaError, match=reason) as refused:
        await files.read(url.format(root=root), limit=1000, hold=hold())
    assert "secret" not in refused.value.message


async def test_limits(root: Path, threads: Threads) -> None:
    files = LocalFiles(root, timeout=5.0, threads=threads)
    with pytest.raises(BadMediaError, match="3 bytes"):
        await files.read(f"file://{root}/link.png", limit=3, hold=hold())
    with pytest.raises(OverloadedError):
        await files.read(f"file://{root}/link.png", limit=100, hold=hold(3))


async def test_a_disk_that_does_not_answer(root: Path, threads: Threads) -> None:
    files = LocalFiles(root, timeout=0.05, threads=threads)
    began, answers = threading.Event(), threading.Event()
    stalled = asyncio.create_task(threads.run(lambda: began.set() or answers.wait(10)))
    await asyncio.to_thread(began.wait)
    with pytest.raises(BadMediaError, match="longer than"):
        await files.read(f"file://{root}/link.png", limit=100, hold=hold())
    answers.set()
    await stalled


async def test_without_a_folder(threads: Threads) -> None:
    with pytest.raises(BadMediaError, match="does not read local files"):
        await LocalFiles(None, timeout=5.0, threads=threads).read("file:///etc/passwd", limit=1, hold=hold())
