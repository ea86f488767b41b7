"""The small owners: budget, grids, mailbox, keys, gate, events."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client import Gauge

from common.config import ConfigError, parse
from common.errors import OverloadedError, UnavailableError
from common.media_key import tenant_salt
from common.pb import common_pb2
from router.auth import Keys
from router.budget import ByteBudget, Hold
from router.config import RouterConfig
from router.exchange import Gate
from router.grids import GridMemory
from router.mailbox import Mailbox
from router.metrics import RouterMetrics
from router.model import SamplingDefaults
from router.problems import Problem
from router.sse import ChatChunks


def test_budget() -> None:
    budget = ByteBudget(10, Gauge("bytes", "", registry=None))
    first, second = Hold(budget), Hold(budget)
    first.add(6)
    with pytest.raises(OverloadedError):
        second.add(5)
    second.add(4)
    first.remove(1)
    first.release()
    assert budget.used == 4
    second.release()
    assert budget.used == 0


def test_grid_memory_forgets_the_longest_unused() -> None:
    memory = GridMemory(capacity=2)
    for key in (b"a", b"b"):
        memory.put(key, common_pb2.MediaMetadata(rows=ord(key)))
    assert memory.get(b"a") is not None
    memory.put(b"c", common_pb2.MediaMetadata(rows=3))
    assert memory.get(b"b") is None
    assert memory.get(b"a") is not None
    memory.forget(b"a")
    assert memory.get(b"a") is None


async def test_mailbox_hands_over_all_that_is_there() -> None:
    mailbox = Mailbox[int]()
    mailbox.post(1)
    mailbox.post(2)
    assert await mailbox.take() == [1, 2]
    waiting = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    mailbox.post(3)
    mailbox.post(4)
    assert await waiting == [3, 4]


def test_keys(tmp_path: object) -> None:
    assert Keys().salt(None) == b""
    keys = Keys(("one",))
    assert keys.salt("Bearer one") == tenant_salt("one")
    assert keys.salt("bearer  one") == tenant_salt("one")
    for header in (None, "", "Bearer", "Bearer ", "Bearer two", "Basic one"):
        with pytest.raises(Problem) as refused:
            keys.salt(header)
        assert refused.value.status == 401


def test_key_files(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    with pytest.raises(ConfigError, match="can't read"):
        Keys(file=folder / "missing")
    (folder / "empty").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="no key"):
        Keys(file=folder / "empty")


async def test_gate() -> None:
    gate = Gate(1, RouterMetrics())
    with gate.enter(), pytest.raises(OverloadedError), gate.enter():
        pass
    await asyncio.wait_for(gate.empty(), 1)
    gate.draining = True
    with pytest.raises(UnavailableError), gate.enter():
        pass


def test_sampling_defaults() -> None:
    greedy = SamplingDefaults.of({"do_sample": False, "temperature": 0.7})
    assert greedy.temperature == 0
    published = SamplingDefaults.of({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20})
    assert published == SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20, min_p=0.0)
    assert SamplingDefaults.of({}) == SamplingDefaults(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)


def test_chunks_are_json_whatever_the_text() -> None:
    chunks = ChatChunks({"id": "x", "model": 'a"b'}, with_usage=True)
    for text in ("plain", '"quotes"\n', "\u2028 é 🌋 \x00"):
        event = chunks.text(0, text).decode()
        assert event.startswith("data: ")
        assert event.endswith("\n\n")
        assert "\n" not in event[:-2]
        data = json.loads(event.removeprefix("data: "))
        assert data["choices"][0]["delta"] == {"content": text}
        assert data["usage"] is None
        assert data["object"] == "chat.completion.chunk"


def test_options() -> None:
    config = parse(RouterConfig, "router", ["--encode", "a:1", "b:2", "--api-key", "secret", "--port", "0"], {})
    assert config.encode == ("a:1", "b:2")
    assert "secret" not in repr(config)
    for argv in (
        ["--port", "70000"],
        ["--media-timeout-seconds", "0"],
        ["--max-requests", "0"],
        ["--encode", "nowhere"],
    ):
        with pytest.raises(ConfigError):
            parse(RouterConfig, "router", argv, {})
