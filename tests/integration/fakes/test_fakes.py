"""Both fakes on the real wire, with a router written out by hand between them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from common.fingerprint import ROUTER_FILES
from common.pb import common_pb2
from common.pb import language_pb2 as pb
from encode_server.fake import FakeEncodeServer
from language_server.fake import FakeLanguageServer
from tests.integration.fakes.conftest import MODEL, EncodeServers, LanguageServers
from tests.integration.fakes.stub_router import EncodeCall, StubRouter, image_of

TOKENIZER = Tokenizer.from_str((MODEL / "tokenizer.json").read_text())
PAD = TOKENIZER.token_to_id("<|image_pad|>")
EOS = json.loads((MODEL / "generation_config.json").read_text())["eos_token_id"][0]


def text(answer: list[int]) -> str:
    return str(TOKENIZER.decode(answer))


def prompt_of(words: str) -> list[int]:
    return list(TOKENIZER.encode(words, add_special_tokens=False).ids)


def router(encode: FakeEncodeServer, language: FakeLanguageServer) -> StubRouter:
    return StubRouter(encode.addresses["grpc"], language.addresses["grpc"])


def transferred(server: FakeEncodeServer | FakeLanguageServer) -> dict[str, float]:
    """Bytes by transport."""
    metrics = [sample for metric in server.metrics.registry.collect() for sample in metric.samples]
    return {sample.labels["transport"]: sample.value for sample in metrics if sample.name == "epd_transfer_bytes_total"}


def metric(server: FakeEncodeServer | FakeLanguageServer, name: str, **labels: str) -> float:
    return server.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("transport", ["zmq", "grpc"])
async def test_images_in_and_an_answer_out(
    transport: str, encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    async with encode_server(transport=transport) as encode, language_server() as language:
        async with router(encode, language).session() as session:
            answer = await session.ask([5, image_of(640, 480), 6, image_of(64, 64, 1)], pad=PAD)
            assert text(answer.token_ids) == "This is a made-up answer. I see 2 images of 250 visual tokens."
            assert answer.token_ids[-1] == EOS
            assert answer.finished.reason == pb.Finished.STOP
            assert answer.finished.stop_token_id == EOS
            assert answer.finished.prompt_tokens == 252
            assert answer.finished.output_tokens == len(answer.token_ids)
            assert sorted(answer.needed) == sorted(answer.received)
            assert len(answer.needed) == 2
        moved = 250 * 192 * 4 * 2
        assert transferred(encode) == {transport: moved}
        assert transferred(language) == {transport: moved}


async def test_a_second_request_about_the_same_image_needs_nothing(
    encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    async with encode_server() as encode, language_server() as language, router(encode, language).session() as session:
        first = await session.ask([5, image_of(64, 64)], pad=PAD)
        second = await session.ask([7, image_of(64, 64), image_of(64, 64)], pad=PAD)
        assert len(first.grants) == 1
        assert (second.needed, second.grants, second.received) == ([], [], [])
        assert "2 images" in text(second.token_ids)
        assert metric(encode, "epd_encode_items_total") == 1


async def test_one_image_twice_in_a_prompt_is_sent_once(
    encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    async with encode_server() as encode, language_server() as language, router(encode, language).session() as session:
        answer = await session.ask([5, image_of(64, 64), 6, image_of(64, 64)], pad=PAD)
        assert (len(answer.needed), len(answer.grants)) == (1, 1)


async def test_many_requests_with_little_room_all_end_well(
    encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    """Room for two images, sixteen wanted at once by eight requests."""
    room = 2 * 250 * 192 * 4 * 2
    async with (
        encode_server() as encode,
        language_server(inbox_bytes=room) as language,
        router(encode, language).session() as session,
    ):
        handles = [
            await session.start([5, image_of(320, 320, i), 6, image_of(320, 320, 100 + i)], pad=PAD) for i in range(8)
        ]
        answers = [await session.end(handle) for handle in handles]
        assert {answer.finished.reason for answer in answers} == {pb.Finished.STOP}
        assert metric(language, "epd_inbox_bytes") <= room


@pytest.mark.parametrize("transport", ["zmq", "grpc"])
async def test_corrupt_frames_lead_to_a_new_need_until_the_budget_is_spent(
    transport: str, encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    async with (
        encode_server(transport=transport, corrupt_rate=1.0) as encode,
        language_server() as language,
        router(encode, language).session() as session,
    ):
        answer = await session.ask([5, image_of(64, 64)], pad=PAD)
        assert answer.finished.error.code == common_pb2.Error.MEDIA_LOST
        assert len(answer.grants) == 3
        assert metric(language, "epd_frames_rejected_total", reason="checksum") == 3
        assert transferred(encode) == {}


async def test_some_corrupt_frames_do_no_harm(encode_server: EncodeServers, language_server: LanguageServers) -> None:
    async with (
        encode_server(corrupt_rate=0.2, seed=4) as encode,
        language_server() as language,
        router(encode, language).session() as session,
    ):
        answers = [await session.ask([5, image_of(64, 64, i)], pad=PAD) for i in range(10)]
        assert {answer.finished.reason for answer in answers} == {pb.Finished.STOP}
        assert metric(language, "epd_frames_rejected_total", reason="checksum") > 0


@pytest.mark.parametrize("transport", ["zmq", "grpc"])
async def test_a_withheld_frame_leads_to_a_new_need(
    transport: str, encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    options = {"transport": transport, "drop_rate": 0.5, "seed": 2, "receipt_seconds": 0.2}
    async with (
        encode_server(**options) as encode,
        language_server() as language,
        router(encode, language).session() as session,
    ):
        answers = [await session.ask([5, image_of(64, 64, i)], pad=PAD) for i in range(4)]
        assert {answer.finished.reason for answer in answers} == {pb.Finished.STOP}
        assert sum(len(answer.grants) for answer in answers) > 4


async def test_embeddings_that_are_not_the_fakes_are_found_out(
    encode_server: EncodeServers, language_server: LanguageServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right checksums over wrong bytes: what only a mistake in the encode server could do."""
    monkeypatch.setattr("encode_server.fake_engine.fake_embedding", lambda key, layout: bytes(layout.total_bytes))
    for verify in (True, False):
        async with (
            encode_server() as encode,
            language_server(verify=verify) as language,
            router(encode, language).session() as session,
        ):
            answer = await session.ask([5, image_of(64, 64)], pad=PAD)
            assert (answer.finished.reason == pb.Finished.ERROR) is verify


async def test_a_grant_that_is_lost_is_given_anew(
    encode_server: EncodeServers, language_server: LanguageServers
) -> None:
    async with (
        encode_server(fail_rate=0.5, seed=1) as encode,
        language_server() as language,
        router(encode, language).session() as session,
    ):
        answer = await session.ask([5, image_of(64, 64)], pad=PAD)
        assert answer.finished.reason == pb.Finished.STOP
        assert len(answer.grants) > 1
        errors = [event.error for event in answer.encode_events if event.HasField("error")]
        assert {error.code for error in errors} == {common_pb2.Error.INTERNAL}


async def test_steps_of_all_requests_come_in_one_message(language_server: LanguageServers, tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"answer": "one two three four five six seven eight", "tokens_per_second": 100}]))
    async with (
        language_server(script=script) as language,
        StubRouter("", language.addresses["grpc"]).language_session() as session,
    ):
        handles = [await session.start([5, 6, 7], pad=PAD) for _ in range(20)]
        answers = [await session.end(handle) for handle in handles]
        tokens = sum(len(answer.token_ids) for answer in answers)
        assert session.messages_with_outputs < tokens / 5


class TestAnswers:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        path = tmp_path / "script.jsonl"
        rules = [
            {"match": "weather", "answer": "It rains."},
            {"match": "crash", "answer": "Once upon", "error": "INTERNAL", "message": "as the script says"},
            {"match": "refuse", "error": "OVERLOADED"},
            {"match": "slow", "answer": "a b c d e f g h i j k l m n o p", "tokens_per_second": 5},
        ]
        path.write_text("\n".join(json.dumps(rule) for rule in rules))
        return path

    async def ask(self, language: FakeLanguageServer, words: str, **more: object) -> tuple[str, pb.Finished]:
        async with StubRouter("", language.addresses["grpc"]).language_session() as session:
            answer = await session.ask(prompt_of(words), pad=PAD, **more)
            return text(answer.token_ids), answer.finished

    async def test_by_script(self, language_server: LanguageServers, script: Path) -> None:
        async with language_server(script=script) as language:
            said, finished = await self.ask(language, "How is the weather?")
            assert (said, finished.reason) == ("It rains.", pb.Finished.STOP)
            said, finished = await self.ask(language, "Hello")
            assert said == f"This is a made-up answer to {len(prompt_of('Hello'))} prompt tokens."

    async def test_an_error_after_tokens_and_one_before(self, language_server: LanguageServers, script: Path) -> None:
        async with language_server(script=script) as language:
            said, finished = await self.ask(language, "crash")
            assert (said, finished.error.code) == ("Once upon", common_pb2.Error.INTERNAL)
            assert finished.error.message == "as the script says"
            said, finished = await self.ask(language, "refuse")
            assert (said, finished.error.code) == ("", common_pb2.Error.OVERLOADED)

    async def test_max_tokens(self, language_server: LanguageServers, script: Path) -> None:
        async with language_server(script=script) as language:
            _, finished = await self.ask(language, "weather", sampling=pb.SamplingParams(max_tokens=2))
            assert (finished.reason, finished.output_tokens) == (pb.Finished.LENGTH, 2)

    async def test_ignore_eos_goes_on_to_max_tokens(self, language_server: LanguageServers, script: Path) -> None:
        async with language_server(script=script) as language:
            sampling = pb.SamplingParams(max_tokens=200, ignore_eos=True)
            said, finished = await self.ask(language, "weather", sampling=sampling)
            assert (finished.reason, finished.output_tokens) == (pb.Finished.LENGTH, 200)
            assert said.startswith("It rains.It rains.")

    async def test_min_tokens_holds_the_end_back(self, language_server: LanguageServers, script: Path) -> None:
        async with language_server(script=script) as language:
            sampling = pb.SamplingParams(max_tokens=100, min_tokens=50)
            _, finished = await self.ask(language, "weather", sampling=sampling)
            assert (finished.reason, finished.output_tokens) == (pb.Finished.STOP, 51)

    async def test_stop_token_ids(self, language_server: LanguageServers, script: Path) -> None:
        stop = prompt_of("It rains.")[-1]
        async with language_server(script=script) as language:
            sampling = pb.SamplingParams(max_tokens=100, stop_token_ids=[stop])
            said, finished = await self.ask(language, "weather", sampling=sampling)
            assert (said, finished.stop_token_id) == ("It rains.", stop)

    async def test_a_resumed_answer_goes_on_exactly_behind(
        self, language_server: LanguageServers, script: Path
    ) -> None:
        whole = [*prompt_of("It rains."), EOS]
        async with language_server(script=script) as language:
            for made in range(len(whole)):
                _, finished = await self.ask(language, "weather", resumed_output_ids=whole[:made])
                assert finished.output_tokens == len(whole)
                async with StubRouter("", language.addresses["grpc"]).language_session() as session:
                    answer = await session.ask(prompt_of("weather"), pad=PAD, resumed_output_ids=whole[:made])
                    assert answer.token_ids == whole[made:]

    async def test_a_deadline_and_an_abort(self, language_server: LanguageServers, script: Path) -> None:
        async with language_server(script=script) as language:
            _, finished = await self.ask(language, "slow", deadline_seconds=0.1)
            assert finished.error.code == common_pb2.Error.DEADLINE_EXCEEDED
            async with StubRouter("", language.addresses["grpc"]).language_session() as session:
                handle = await session.start(prompt_of("slow"), pad=PAD)
                await session.abort(handle)
                assert (await session.end(handle)).finished.reason == pb.Finished.ABORTED

    @pytest.mark.parametrize(
        ("words", "changes"),
        [
            ("the prompt is empty", {"prompt_ids": []}),
            ("outside the vocabulary", {"prompt_ids": [10**6]}),
            ("max_tokens has to be", {"sampling": pb.SamplingParams(max_tokens=0)}),
            ("maximum context length", {"sampling": pb.SamplingParams(max_tokens=10**6)}),
            ("temperature", {"sampling": pb.SamplingParams(max_tokens=1, temperature=-1)}),
            ("placeholder without a span", {"prompt_ids": [1, PAD]}),
            ("span", {"spans": [pb.Span(key=b"k" * 32, rows=1, token_offset=0, item_rows=1)]}),
            ("holds up to", {"spans": [pb.Span(key=b"k" * 32, rows=1, token_offset=0, item_rows=10**8)]}),
            ("media key", {"spans": [pb.Span(key=b"k", rows=1, token_offset=0, item_rows=1)]}),
            ("does not fit", {"spans": [pb.Span(key=b"k" * 32, rows=9, token_offset=0, item_rows=9)]}),
        ],
    )
    async def test_bad_requests_are_refused(
        self, language_server: LanguageServers, words: str, changes: dict[str, object]
    ) -> None:
        async with (
            language_server() as language,
            StubRouter("", language.addresses["grpc"]).language_session() as session,
        ):
            good = {"prompt_ids": [5, 6], "sampling": pb.SamplingParams(max_tokens=5)}
            finished = await session.ask_raw(**{**good, **changes})
            assert words in finished.error.message
            assert finished.error.code in (
                common_pb2.Error.INVALID_REQUEST,
                common_pb2.Error.CONTEXT_LENGTH_EXCEEDED,
            )

    async def test_another_model_is_a_mismatch(self, language_server: LanguageServers) -> None:
        async with (
            language_server() as language,
            StubRouter("", language.addresses["grpc"]).language_session() as session,
        ):
            session.info.fingerprint = bytes(32)
            answer = await session.ask([5], pad=PAD)
            assert answer.finished.error.code == common_pb2.Error.MODEL_MISMATCH


class TestEncodeStreams:
    async def test_a_key_that_is_known_asks_for_no_media(self, encode_server: EncodeServers) -> None:
        async with encode_server() as encode, StubRouter(encode.addresses["grpc"], "").encode_session() as session:
            for asked in (True, False):
                call = EncodeCall(session)
                image = image_of(64, 64)
                assert (
                    await call.open([image], key=b"k" * 32, fingerprint=session.encode_info.fingerprint) == "metadata"
                )
                assert call.events[0].accepted.send_media is asked
                while metric(encode, "epd_encode_items_total") < 1:  # what is not finished goes with its last stream
                    await asyncio.sleep(0.01)
                await call.done()
                assert await call.read() == "end"

    async def test_a_probe_keeps_nothing(self, encode_server: EncodeServers) -> None:
        async with encode_server() as encode, StubRouter(encode.addresses["grpc"], "").encode_session() as session:
            for _ in range(2):
                call = EncodeCall(session)
                fingerprint = session.encode_info.fingerprint
                image = image_of(64, 64)
                assert await call.open([image], key=b"k" * 32, fingerprint=fingerprint, is_probe=True) == "metadata"
                assert call.events[0].accepted.send_media
                assert await call.read() == "end"
            assert metric(encode, "epd_encode_items_total") == 0

    @pytest.mark.parametrize(
        ("code", "changes"),
        [
            ("BAD_MEDIA", {"parts": [b"not an image"]}),
            ("BAD_MEDIA", {"parts": [image_of(64, 64)[:20]]}),
            ("BAD_MEDIA", {"parts": [image_of(100_000, 100_000)]}),
            ("BAD_MEDIA", {"parts": [image_of(10_000, 10)]}),
            ("BAD_MEDIA", {"parts": [b"\0" * 50], "kind": common_pb2.VIDEO}),
            ("BAD_MEDIA", {"parts": [image_of(64, 64), image_of(64, 96)], "kind": common_pb2.FRAMES}),
            ("INVALID_REQUEST", {"digest": bytes(32)}),
            ("INVALID_REQUEST", {"digest": b"short"}),
            ("INVALID_REQUEST", {"key": b"short"}),
            ("INVALID_REQUEST", {"kind": common_pb2.MEDIA_KIND_UNSPECIFIED}),
            ("INVALID_REQUEST", {"parts": []}),
            ("INVALID_REQUEST", {"parts": [b"a", b"b"]}),
            ("INVALID_REQUEST", {"options": common_pb2.MediaOptions(num_frames=4)}),
            ("INVALID_REQUEST", {"options": common_pb2.MediaOptions(max_pixels=1 << 60)}),
            ("INVALID_REQUEST", {"deadline_seconds": -1.0}),
            ("MODEL_MISMATCH", {"fingerprint": bytes(32)}),
        ],
    )
    async def test_what_can_not_be_encoded_is_a_typed_error(
        self, encode_server: EncodeServers, code: str, changes: dict[str, object]
    ) -> None:
        async with encode_server() as encode, StubRouter(encode.addresses["grpc"], "").encode_session() as session:
            good: dict[str, object] = {
                "parts": [image_of(64, 64)],
                "key": b"k" * 32,
                "fingerprint": session.encode_info.fingerprint,
            }
            call = EncodeCall(session)
            assert await call.open(**{**good, **changes}) == "error"
            assert common_pb2.Error.Code.Name(call.events[-1].error.code) == code
            assert await call.read() == "end"
            again = EncodeCall(session)
            assert await again.open(**good) == "metadata"

    async def test_metadata_does_not_wait_for_the_queue_and_cancelling_leaves_it(
        self, encode_server: EncodeServers
    ) -> None:
        async with (
            encode_server(delay=60.0) as encode,
            StubRouter(encode.addresses["grpc"], "").encode_session() as session,
        ):
            calls = []
            for number in range(3):
                call = EncodeCall(session)
                fingerprint = session.encode_info.fingerprint
                kind = await call.open([image_of(64, 64, number)], key=bytes([number]) * 32, fingerprint=fingerprint)
                assert kind == "metadata"
                calls.append(call)
            assert calls[-1].events[-1].load.queue_seconds == pytest.approx(180.0)
            for call in calls:
                call.call.cancel()
            async with asyncio.timeout(5):
                while encode.engine.load().waiting + encode.engine.load().running:
                    await asyncio.sleep(0.001)

    async def test_a_full_queue_is_overload(self, encode_server: EncodeServers) -> None:
        async with (
            encode_server(delay=60.0, max_waiting_items=1) as encode,
            StubRouter(encode.addresses["grpc"], "").encode_session() as session,
        ):
            fingerprint = session.encode_info.fingerprint
            first, second = EncodeCall(session), EncodeCall(session)
            assert await first.open([image_of(64, 64)], key=b"a" * 32, fingerprint=fingerprint) == "metadata"
            assert await second.open([image_of(64, 64)], key=b"b" * 32, fingerprint=fingerprint) == "error"
            assert second.events[-1].error.code == common_pb2.Error.OVERLOADED

    async def test_a_deadline_ends_the_stream(self, encode_server: EncodeServers) -> None:
        async with (
            encode_server(delay=60.0) as encode,
            StubRouter(encode.addresses["grpc"], "").encode_session() as session,
        ):
            call = EncodeCall(session)
            fingerprint = session.encode_info.fingerprint
            await call.open([image_of(64, 64)], key=b"a" * 32, fingerprint=fingerprint, deadline_seconds=0.1)
            assert await call.read() == "error"
            assert call.events[-1].error.code == common_pb2.Error.DEADLINE_EXCEEDED


async def test_model_files_are_those_of_the_checkpoint(language_server: LanguageServers) -> None:
    async with (
        language_server() as language,
        StubRouter("", language.addresses["grpc"]).language_session() as session,
    ):
        files: dict[str, bytes] = {}
        ended = []
        async for chunk in session.language.GetModelFiles(pb.GetModelFilesRequest()):
            files[chunk.name] = files.get(chunk.name, b"") + chunk.data
            ended += [chunk.name] if chunk.last else []
        expected = {name: (MODEL / name).read_bytes() for name in ROUTER_FILES if (MODEL / name).is_file()}
        assert files == expected
        assert ended == list(expected)


class TestDraining:
    async def test_a_language_server_lets_requests_finish_and_moves_the_rest(
        self, language_server: LanguageServers
    ) -> None:
        async with (
            language_server(rate=50.0) as language,
            StubRouter("", language.addresses["grpc"]).language_session() as session,
        ):
            short = await session.start([5], pad=PAD, sampling=pb.SamplingParams(max_tokens=3))
            long = await session.start([5], pad=PAD, sampling=pb.SamplingParams(max_tokens=9999, ignore_eos=True))
            await session.heard(long)
            stopping = asyncio.create_task(language.stop(0.3))
            late = await session.start([5], pad=PAD)
            assert (await session.end(late)).finished.error.code == common_pb2.Error.MOVED
            assert (await session.end(short)).finished.reason == pb.Finished.LENGTH
            moved = await session.end(long)
            assert moved.finished.error.code == common_pb2.Error.MOVED
            await stopping
            language.stop = nothing  # type: ignore[method-assign]

    async def test_an_encode_server_hands_back_what_it_has_not_begun(self, encode_server: EncodeServers) -> None:
        async with (
            encode_server(delay=0.3) as encode,
            StubRouter(encode.addresses["grpc"], "").encode_session() as session,
        ):
            fingerprint = session.encode_info.fingerprint
            begun, waiting, late = (EncodeCall(session) for _ in range(3))
            await begun.open([image_of(64, 64)], key=b"a" * 32, fingerprint=fingerprint)
            await waiting.open([image_of(64, 64)], key=b"b" * 32, fingerprint=fingerprint)
            stopping = asyncio.create_task(encode.stop(5.0))
            await asyncio.sleep(0)
            while not encode.engine.draining:
                await asyncio.sleep(0.001)
            assert await late.open([image_of(64, 64)], key=b"c" * 32, fingerprint=fingerprint) == "error"
            assert late.events[-1].error.code == common_pb2.Error.UNAVAILABLE
            assert await waiting.read() == "error"
            assert waiting.events[-1].error.code == common_pb2.Error.MOVED
            await begun.done()
            assert await begun.read() == "end"
            await stopping
            encode.stop = nothing  # type: ignore[method-assign]


async def nothing(drain_seconds: float) -> None:
    """In place of a second `stop`."""
