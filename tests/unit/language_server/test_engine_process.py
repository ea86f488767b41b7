"""The loop around an engine: what wakes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common.pb import engine_pb2 as pb
from common.pb import language_pb2
from language_server.engine.arena import Arena
from language_server.engine.build import build_engine
from language_server.engine.options import EngineOptions
from language_server.engine_process import EngineLoop
from language_server.wake import Wake
from tests.checkpoints import write_checkpoint


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Connection]:
    """The front's end of a running loop."""
    options = EngineOptions(
        model_dir=str(write_checkpoint(tmp_path / "model", "text_dense")), dtype="float32", kv_cache_bytes=1 << 20
    )
    wake = Wake()
    engine, _ = build_engine(options, Arena.create(1 << 16), wake=wake.set)
    ours, theirs = Pipe()
    thread = threading.Thread(target=EngineLoop(engine, theirs, wake).run)
    thread.start()
    yield ours
    ours.send_bytes(pb.EngineCommands(commands=[pb.EngineCommand(stop=True)]).SerializeToString())
    thread.join(60)
    assert not thread.is_alive()
    engine.close()


def test_a_compiled_grammar_wakes_a_loop_that_has_nothing_else_to_do(front: Connection) -> None:
    sampling = language_pb2.SamplingParams(max_tokens=9, grammar=language_pb2.Grammar(source='start: "a"'))
    generate = language_pb2.Generate(handle=1, prompt_ids=[300], sampling=sampling)
    front.send_bytes(pb.EngineCommands(commands=[pb.EngineCommand(generate=generate)]).SerializeToString())
    finished: list[language_pb2.Finished] = []
    while not finished:
        assert front.poll(60), "the loop sleeps although the grammar is there"
        finished += pb.EngineEvents.FromString(front.recv_bytes()).events.finished
    assert finished[0].reason == language_pb2.Finished.STOP
    assert finished[0].output_tokens == 1
