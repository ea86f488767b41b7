from __future__ import annotations

from common.pb import engine_pb2
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
