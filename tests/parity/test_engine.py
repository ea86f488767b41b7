"""Every cut is invisible: however the engine divides, orders and repeats its work, the tokens are the reference's."""

from __future__ import annotations

import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from common.pb import common_pb2
from common.pb import language_pb2 as pb
from tests.checkpoints import write_checkpoint
from tests.engine_driver import EngineDriver
from tests.oracle import MIN_MARGIN, Answer, Oracle
from tests.prompts import Prompt, PromptBuilder, media_key, mixed_prompts

TOKENS = 48
KINDS = ("moe", "dense")
CASES = (
    "text only",
    "one image",
    "three images",
    "video",
    "image and video",
    "second turn on the image",
    "the same image twice",
    "smallest image",
    "wide image",
    "tall image",
    "large image",
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A checkpoint, prompts for it, the reference's embeddings by key, and its greedy tokens by case."""

    model_dir: Path
    oracle: Oracle
    prompts: dict[str, Prompt]
    embeddings: dict[bytes, torch.Tensor]
    tokens: dict[str, list[int]]

    def driver(self, **options: object) -> EngineDriver:
        driver = EngineDriver(self.model_dir, **options)
        driver.supply.update(self.embeddings)
        return driver

    def submit(self, driver: EngineDriver, case: str, tokens: int = TOKENS) -> int:
        prompt = self.prompts[case]
        return driver.submit(prompt.ids, prompt.spans, tokens=tokens)


def make_reference(model_dir: Path) -> Reference:
    oracle = Oracle(model_dir)
    chosen = {case: well_posed(oracle, case) for case in CASES}
    items = [item for prompt, _ in chosen.values() for item in prompt.items]
    return Reference(
        model_dir=model_dir,
        oracle=oracle,
        prompts={case: prompt for case, (prompt, _) in chosen.items()},
        embeddings={media_key(item): oracle.embed(item) for item in items},
        tokens={case: answer.tokens for case, (_, answer) in chosen.items()},
    )


def well_posed(oracle: Oracle, case: str) -> tuple[Prompt, Answer]:
    """The first prompt of its kind for which every greedy choice is clear and the answer varies."""
    for seed in range(20):
        prompt = mixed_prompts(oracle.config, seed=seed)[case]
        answer = oracle.greedy(prompt.ids, prompt.items, tokens=TOKENS)
        if answer.margin > MIN_MARGIN and len(set(answer.tokens)) > TOKENS // 4:
            return prompt, answer
    raise AssertionError(f"no seed gives clear choices for {case!r}")


@pytest.fixture(scope="module", params=KINDS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    torch.set_num_threads(1)
    return make_reference(write_checkpoint(tmp_path_factory.mktemp("model") / request.param, request.param))


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    torch.set_num_threads(1)
    return make_reference(write_checkpoint(tmp_path_factory.mktemp("model") / "moe", "moe"))


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_equal_the_reference(reference: Reference, case: str) -> None:
    driver = reference.driver(max_step_tokens=2048)
    assert driver.run([reference.submit(driver, case)]) == [reference.tokens[case]]


@pytest.mark.parametrize(("chunk", "block_size"), [(1, 16), (7, 16), (16, 16), (7, 3), (16, 5), (250, 7)])
def test_chunks_and_blocks_cut_spans_anywhere(moe: Reference, chunk: int, block_size: int) -> None:
    driver = moe.driver(max_step_tokens=chunk, max_num_seqs=1, block_size=block_size, prefix_caching=False)
    for case in CASES:
        assert driver.run([moe.submit(driver, case)]) == [moe.tokens[case]], case


@pytest.mark.parametrize("block_size", [4, 16])
def test_a_hot_prefix_cache_changes_nothing_and_needs_no_media(moe: Reference, block_size: int) -> None:
    driver = moe.driver(block_size=block_size)
    cold = [moe.submit(driver, case) for case in CASES]
    assert driver.run(cold) == [moe.tokens[case] for case in CASES]
    delivered = len(driver.delivered)
    hot = [moe.submit(driver, case) for case in CASES]
    assert driver.run(hot) == [moe.tokens[case] for case in CASES]
    assert len(driver.delivered) == delivered
    for case, handle in zip(CASES, hot, strict=True):
        outcome = driver.outcomes[handle]
        assert outcome.admitted is not None
        assert outcome.admitted.cached_tokens >= (len(moe.prompts[case].ids) - 1) // block_size * block_size, case
        assert not outcome.needs, case


def test_sixteen_mixed_requests_at_once(moe: Reference) -> None:
    driver = moe.driver(max_step_tokens=64)
    cases = list(itertools.islice(itertools.cycle(CASES), 16))
    handles = [moe.submit(driver, case) for case in cases]
    assert driver.run(handles) == [moe.tokens[case] for case in cases]
    stats = driver.engine.stats
    assert stats["decode_tokens"] / stats["decode_steps"] > 8


def test_preemption_in_the_middle_changes_nothing(moe: Reference) -> None:
    """A KV cache for about three of the requests, and an inbox for about two of their items."""
    cases = [case for case in CASES if case != "large image"]
    driver = moe.driver(kv_cache_bytes=420_000, block_size=8, inbox_bytes=1 << 16, prefix_caching=False)
    handles = [moe.submit(driver, case) for case in cases]
    assert driver.run(handles) == [moe.tokens[case] for case in cases]
    assert driver.engine._scheduler.preemptions > 0
    stats = driver.engine.step().stats.values
    assert stats["grant_stalls"] > 0
    assert stats["grant_stall_seconds"] > 0
    assert stats["grants_stalled"] == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_items_may_arrive_in_any_order(moe: Reference, order: tuple[int, ...]) -> None:
    driver = moe.driver(max_step_tokens=5, max_num_seqs=2)
    prompt = moe.prompts["three images"]
    driver.withheld.update(prompt.keys)
    handle = moe.submit(driver, "three images")
    for place in order:
        for _ in range(20):
            driver.step()
        driver.withheld.discard(prompt.keys[place])
        driver.deliver()
    assert driver.run([handle]) == [moe.tokens["three images"]]


def test_prefill_goes_on_item_by_item(moe: Reference) -> None:
    driver = moe.driver()
    prompt = moe.prompts["three images"]
    driver.withheld.add(prompt.keys[1])
    handle = moe.submit(driver, "three images")
    for _ in range(10):
        driver.step()
    second = next(span for span in prompt.spans if span.key == prompt.keys[1])
    assert driver.engine.stats["prefill_tokens"] == second.token_offset
    assert driver.outcomes[handle].tokens == []
    time.sleep(0.02)  # so that the wait can be told from the rest
    driver.withheld.clear()
    driver.deliver()
    assert driver.run([handle]) == [moe.tokens["three images"]]
    finished = driver.outcomes[handle].finished
    assert finished is not None
    times = {stage.stage: stage.milliseconds for stage in finished.times}
    assert list(times) == ["queue", "inbox", "prefill", "decode"]
    assert times["queue"] < 20 <= times["inbox"] <= times["queue"] + times["prefill"]


def test_a_stalled_request_blocks_nobody(moe: Reference) -> None:
    driver = moe.driver()
    driver.withheld.update(moe.prompts["one image"].keys)
    stalled = moe.submit(driver, "one image")
    text = moe.submit(driver, "text only")
    assert driver.run([text]) == [moe.tokens["text only"]]
    assert driver.outcomes[stalled].finished is None
    driver.withheld.clear()
    driver.deliver()
    assert driver.run([stalled]) == [moe.tokens["one image"]]


def test_an_inbox_that_holds_one_item_at_a_time_is_enough(moe: Reference) -> None:
    largest = max(tensor.nbytes for tensor in moe.embeddings.values())
    driver = moe.driver(inbox_bytes=-(-largest // 4096) * 4096)
    handles = [moe.submit(driver, case) for case in CASES]
    assert driver.run(handles) == [moe.tokens[case] for case in CASES]


def test_equal_spans_of_different_images_share_nothing(moe: Reference) -> None:
    make = PromptBuilder(moe.oracle.config, seed=7)
    text = make.text(40)
    prompts = [make.build(text[:5], make.image(8, 8), text[5:]) for _ in range(2)]
    driver = moe.driver(block_size=4)
    for prompt in prompts:
        driver.supply[prompt.keys[0]] = moe.oracle.embed(prompt.items[0])
        answer = moe.oracle.greedy(prompt.ids, prompt.items, tokens=24)
        assert answer.margin > MIN_MARGIN
        handle = driver.submit(prompt.ids, prompt.spans, tokens=24)
        assert driver.run([handle]) == [answer.tokens]
        admitted = driver.outcomes[handle].admitted
        assert admitted is not None
        assert admitted.cached_tokens <= 6  # the text before the span


def test_tenants_share_no_blocks(moe: Reference) -> None:
    driver = moe.driver(block_size=4)
    prompt = moe.prompts["text only"]
    for salt in (b"a", b"b"):
        handle = driver.submit(prompt.ids, tokens=4, salt=salt)
        driver.run([handle])
        admitted = driver.outcomes[handle].admitted
        assert admitted is not None
        assert admitted.cached_tokens == 0
    again = driver.submit(prompt.ids, tokens=4, salt=b"a")
    driver.run([again])
    assert driver.outcomes[again].finished.cached_tokens == 20


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 1234}])
@pytest.mark.parametrize("made", [1, 13])
def test_a_request_resumed_elsewhere_goes_on_exactly(moe: Reference, made: int, sampling: dict[str, float]) -> None:
    prompt = moe.prompts["one image"]
    driver = moe.driver()
    whole = driver.run([driver.submit(prompt.ids, prompt.spans, tokens=32, **sampling)])[0]
    elsewhere = moe.driver(max_step_tokens=11, max_num_seqs=1)
    handle = elsewhere.submit(prompt.ids, prompt.spans, tokens=32, resumed=whole[:made], **sampling)
    assert elsewhere.run([handle])[0] == whole[made:]


def test_an_aborted_request_frees_everything(moe: Reference) -> None:
    driver = moe.driver(prefix_caching=False)
    driver.withheld.add(moe.prompts["three images"].keys[2])
    handle = moe.submit(driver, "three images")
    for _ in range(5):
        driver.step()
    assert driver.engine._blocks.used > 0
    driver.engine.abort(handle)
    driver.step()
    finished = driver.outcomes[handle].finished
    assert finished is not None
    assert finished.reason == pb.Finished.ABORTED
    stats = driver.engine.step().stats.values
    assert stats["kv_blocks_used"] == stats["inbox_bytes"] == 0
    # Complete items stay as a cache, until room is needed.
    assert stats["inbox_cached_bytes"] == sum(
        moe.embeddings[key].nbytes for key in moe.prompts["three images"].keys[:2]
    )


def test_poisoned_embeddings_end_their_request_only(moe: Reference) -> None:
    """Not a number in, one typed error out; neither the item nor its blocks are found by anybody again."""
    driver = moe.driver(block_size=4)
    prompt = moe.prompts["one image"]
    good = driver.supply[prompt.keys[0]]
    driver.supply[prompt.keys[0]] = good.clone().fill_(float("nan"))
    poisoned, bystander = moe.submit(driver, "one image"), moe.submit(driver, "text only")
    driver.run([poisoned, bystander])
    finished = driver.outcomes[poisoned].finished
    assert finished is not None
    assert finished.error.code == common_pb2.Error.INTERNAL
    assert driver.outcomes[bystander].tokens == moe.tokens["text only"]
    driver.supply[prompt.keys[0]] = good
    assert driver.run([moe.submit(driver, "one image")]) == [moe.tokens["one image"]]


def test_one_key_has_one_size(moe: Reference) -> None:
    driver = moe.driver()
    prompt = moe.prompts["one image"]
    driver.withheld.update(prompt.keys)
    first = moe.submit(driver, "one image")
    liar = pb.Span()
    liar.CopyFrom(prompt.spans[0])
    liar.item_rows += 1
    second = driver.submit(prompt.ids, [liar])
    driver.step()
    finished = driver.outcomes[second].finished
    assert finished is not None
    assert finished.error.code == common_pb2.Error.INVALID_REQUEST
    driver.withheld.clear()
    driver.deliver()
    assert driver.run([first]) == [moe.tokens["one image"]]


def test_every_size_that_is_published_fits(moe: Reference) -> None:
    """An inbox of an odd size: the largest item that requests may name can really be placed."""
    driver = moe.driver(inbox_bytes=25_000)
    rows = driver.info.max_item_rows
    config = moe.oracle.config
    grid = common_pb2.Grid(t=1, h=2, w=2 * rows)
    span = pb.Span(key=b"x" * 32, rows=rows, token_offset=0, grid=grid, item_rows=rows)
    driver.supply[span.key] = torch.zeros(1 + config.levels, rows, config.text.hidden_size)
    handle = driver.submit([config.image_token_id or 0] * rows + [5], [span], tokens=2)
    assert len(driver.run([handle])[0]) == 2


def test_an_end_of_text_outside_the_vocabulary_is_refused_at_load(moe: Reference, tmp_path: Path) -> None:
    shutil.copytree(moe.model_dir, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [5, 10000000]}')
    with pytest.raises(ValueError, match=r"eos_token_id .* is not in the vocabulary"):
        EngineDriver(tmp_path / "model")


def test_what_waits_for_media_is_not_work_yet(moe: Reference) -> None:
    """A decoding request beside a stalled one: the load counts what could be computed, and at prefill's speed."""
    driver = moe.driver()
    driver.run([moe.submit(driver, "text only")])
    prompt = moe.prompts["large image"]
    driver.withheld.update(prompt.keys)
    moe.submit(driver, "large image")
    moe.submit(driver, "text only")
    for _ in range(10):
        driver.step()
    assert driver.engine.step().events.load.queue_seconds == 0


def test_faulty_deepstack_shows(moe: Reference) -> None:
    """Dropping, swapping or zeroing any one level changes the answer: what arrives is what is used."""
    prompt = moe.prompts["one image"]
    key, good = prompt.keys[0], moe.embeddings[prompt.keys[0]]
    levels = range(1, len(good))
    faults = [good.index_fill(0, torch.tensor([level]), 0.0) for level in levels]
    for a, b in itertools.combinations(levels, 2):
        order = list(range(len(good)))
        order[a], order[b] = order[b], order[a]
        faults.append(good[order])
    for fault in faults:
        driver = moe.driver()
        driver.supply[key] = fault
        assert driver.run([moe.submit(driver, "one image")]) != [moe.tokens["one image"]]
