from __future__ import annotations

import logging

import pytest

from common.errors import MediaLostError, MovedError
from common.pb import common_pb2, engine_pb2
from common.pb import language_pb2 as pb
from language_server.sessions import Sessions


def test_everything_about_a_request_reaches_its_session_under_its_own_handle() -> None:
    commands: list[engine_pb2.EngineCommand] = []
    sessions = Sessions(fingerprint=b"f", send=commands.append, complete=lambda grant: None)
    routers = [sessions.open(), sessions.open()]
    for router in routers:
        sessions.handle(router, pb.SessionCommand(generate=pb.Generate(handle=7, fingerprint=b"f")))
    ours = [command.generate.handle for command in commands]
    assert len(set(ours)) == 2
    sessions.deliver(
        pb.SessionEvent(
            admitted=[pb.Admitted(handle=handle) for handle in ours],
            prompt_logprobs=[pb.PromptLogprobs(handle=handle, start=handle) for handle in ours],
            outputs=[pb.StepOutput(handle=handle, token_ids=[handle]) for handle in ours],
            finished=[pb.Finished(handle=ours[0], reason=pb.Finished.STOP)],
        )
    )
    for router, handle in zip(routers, ours, strict=True):
        event = router.events.get_nowait()
        assert event is not None
        assert [admitted.handle for admitted in event.admitted] == [7]
        assert list(event.prompt_logprobs) == [pb.PromptLogprobs(handle=7, start=handle)]
        assert list(event.outputs) == [pb.StepOutput(handle=7, token_ids=[handle])]
        assert len(event.finished) == (handle == ours[0])


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What the lines about requests say, without what the clock decides."""
    found = [record for record in caplog.records if record.getMessage() == "generate"]
    assert all(record.levelno == logging.INFO for record in found)
    names = ("request_id", "outcome", "reason", "code", "output_tokens", "stages_ms")
    return [{name: vars(record)[name] for name in names if hasattr(record, name)} for record in found]


def test_every_request_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    commands: list[engine_pb2.EngineCommand] = []
    sessions = Sessions(fingerprint=b"f", send=commands.append, complete=lambda grant: None)
    staying, leaving = sessions.open(), sessions.open()
    for session, name in ((staying, "a"), (staying, "b"), (leaving, "c"), (staying, "d")):
        generate = pb.Generate(handle=ord(name), request_id=name, fingerprint=b"f")
        sessions.handle(session, pb.SessionCommand(generate=generate))
    other_model = pb.Generate(handle=1, request_id="e", fingerprint=b"g")
    sessions.handle(staying, pb.SessionCommand(generate=other_model))
    a, b, *_ = [command.generate.handle for command in commands]
    times = [common_pb2.StageTime(stage="queue", milliseconds=1.25)]
    failed = pb.Finished(handle=b, reason=pb.Finished.ERROR, error=MediaLostError("gone").to_wire())
    sessions.deliver(
        pb.SessionEvent(finished=[pb.Finished(handle=a, reason=pb.Finished.STOP, output_tokens=7, times=times), failed])
    )
    sessions.close(leaving)
    sessions.end(MovedError("draining"))
    assert lines(caplog) == [
        {"request_id": "e", "outcome": "failed", "code": "model_mismatch"},
        {
            "request_id": "a",
            "outcome": "finished",
            "reason": "stop",
            "output_tokens": 7,
            "stages_ms": {"queue": 1.2},
        },
        {"request_id": "b", "outcome": "failed", "code": "media_lost", "output_tokens": 0, "stages_ms": {}},
        {"request_id": "c", "outcome": "aborted"},
        {"request_id": "d", "outcome": "failed", "code": "moved"},
    ]
