"""From metrics as the services show them to what is on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import generate_latest

from common.pb import common_pb2, embedding_pb2, engine_pb2, language_pb2
from common.transport.base import Delivery
from deploy.top.change import Change
from deploy.top.drawing import plain
from deploy.top.places import metrics_place, router_place
from deploy.top.scrape import Scrape
from deploy.top.sheets import Sheet, sheets
from deploy.top.watch import Look, RouterView, Sight
from encode_server.metrics import EncodeMetrics
from language_server.inbox import InboxMetrics
from language_server.metrics import LanguageMetrics
from router.metrics import RouterMetrics

SECONDS = 2.0  # between the two looks


class Seen:
    """A process whose metrics are looked at, changed, and looked at again."""

    def __init__(self, role: str, registry: Any, address: str) -> None:
        self.role, self._registry = role, registry
        self.place = router_place(f"http://{address}") if role == "router" else metrics_place(address)
        self._before: Scrape | None = None

    def look(self) -> Scrape:
        return Scrape.parse(generate_latest(self._registry).decode(), 0.0 if self._before is None else SECONDS)

    def sight(self, change: Callable[[], None]) -> Sight:
        self._before = self.look()
        change()
        after = self.look()
        return Sight(
            place=self.place,
            role=self.role,
            recent=Change(before=self._before, after=after),
            total=Change(before=None, after=after),
        )


def look(*sights: Sight, router: RouterView | None = None) -> Look:
    return Look(at=1_700_000_000.0, sights=sights, routers={"r:8000": router} if router is not None else {})


def cells(found: Sequence[Sheet], title: str) -> list[dict[str, str]]:
    """The rows of a sheet, by the names of their columns; the row's own name is ""."""
    (sheet,) = [sheet for sheet in found if sheet.title.startswith(title)]
    return [dict(zip(("", *sheet.columns), row, strict=False)) for row in sheet.rows]


def router_sight(*, idle: bool = False) -> Sight:
    metrics = RouterMetrics()
    metrics.finished.inc(90)
    metrics.grids.hits.inc(1)
    metrics.grids.misses.inc(3)

    def work() -> None:
        if idle:
            return
        metrics.finished.inc(10)
        metrics.running.set(3)
        metrics.prompt_tokens.inc(5000)
        metrics.output_tokens.inc(64)
        metrics.media_bytes.set(3 << 20)
        metrics.grids.hits.inc(2)
        metrics.grids.misses.inc(2)
        metrics.failed.labels("503").inc(2)
        metrics.failed.labels("400").inc(7)
        metrics.migrations.labels("death").inc()
        for seconds in (0.03, 0.04, 0.07, 0.2):
            metrics.stages.observe("fetch", seconds)
        metrics.first_token.observe(500.0)

    return Seen("router", metrics.registry, "r:8000").sight(work)


def test_a_router() -> None:
    (row,) = cells(sheets(look(router_sight())), "routers")
    assert row == {
        "": "r:8000",
        "ready": "-",
        "running": "3",
        "requests/s": "5.00",
        "ever": "100",
        "prompt/s": "2,500",
        "output/s": "32.0",
        "media held": "3.0 MiB",
        "known sizes": "50% / 38%",
    }


def test_latencies() -> None:
    rows = {row[""]: row for row in cells(sheets(look(router_sight())), "latencies")}
    assert rows.keys() == {"router: first token", "router: fetch"}
    sheet = next(sheet for sheet in sheets(look(router_sight())) if sheet.title.startswith("latencies"))
    (fetch,) = [row for row in sheet.rows if row[0] == "router: fetch"]
    # two of four up to 50 ms, three up to 100 ms, all up to 250 ms
    assert list(fetch) == ["router: fetch", "2.00", "50.0", "220", "4", "50.0", "220"]
    (first,) = [row for row in sheet.rows if row[0] == "router: first token"]
    assert list(first[2:4]) == [">120,000", ">120,000"]


def test_losses_are_named_and_the_clients_own_mistakes_are_none() -> None:
    rows = cells(sheets(look(router_sight())), "lost")
    assert [(row[""], row["lately"], row["ever"]) for row in rows] == [
        ("router r:8000: requests failed status=503", "2", "2"),
        ("router r:8000: migrations cause=death", "1", "1"),
    ]


def test_nothing_lost_is_said() -> None:
    (row,) = cells(sheets(look(router_sight(idle=True))), "lost")
    assert (row[""], row["lately"], row["ever"]) == ("nothing", "0", "0")


def test_an_encode_server() -> None:
    metrics = EncodeMetrics()
    metrics.watch_load(lambda: common_pb2.Load(running=4, waiting=12, queue_seconds=1.25))
    metrics.watch_pool(used_bytes=lambda: 3 << 29, entries=lambda: 7, pins=lambda: 2, capacity=1 << 32)

    def work() -> None:
        metrics.items.inc(30)
        metrics.batches.inc(12)
        metrics.count_delivery(Delivery(transport=embedding_pb2.ZMQ, payload_bytes=64 << 20, seconds=0.1))
        metrics.pool.hits.inc(1)
        metrics.pool.misses.inc(3)
        metrics.ship_failures.labels("true").inc()

    found = sheets(look(Seen("encode", metrics.registry, "e:9101").sight(work)))
    (row,) = cells(found, "encode servers")
    assert row == {
        "": "e:9101",
        "running": "4",
        "waiting": "12",
        "queue s": "1.25",
        "images/s": "15.0",
        "a batch": "2.5",
        "sent/s": "32.0 MiB",
        "cached": "1.5 GiB",
        "pinned": "2",
        "hits": "25% / 25%",
    }
    assert cells(found, "lost")[0][""] == "encode e:9101: ship failures revoked=true"


def test_a_language_server() -> None:
    metrics = LanguageMetrics()
    inbox = InboxMetrics(metrics.registry)

    def work() -> None:
        values = {
            "running": 5,
            "waiting": 1,
            "kv_blocks": 1000,
            "kv_blocks_used": 250,
            "inbox_bytes": 4096,
            "prefill_tokens": 3000,
            "decode_tokens": 800,
            "decode_steps": 200,
            "prefix_hits": 1,
            "prefix_misses": 1,
            "preemptions": 3,
        }
        finished = language_pb2.Finished(times=[common_pb2.StageTime(stage="prefill", milliseconds=75.0)])
        events = language_pb2.SessionEvent(load=common_pb2.Load(queue_seconds=0.5), finished=[finished])
        metrics.update(engine_pb2.EngineEvents(events=events, stats=engine_pb2.EngineStats(values=values)))
        inbox.bytes.labels("zmq").inc(2048)
        inbox.rejected.labels("checksum").inc(2)

    found = sheets(look(Seen("language", metrics.registry, "l:9102").sight(work)))
    (row,) = cells(found, "language servers")
    assert row == {
        "": "l:9102",
        "running": "5",
        "waiting": "1",
        "queue s": "0.50",
        "prefill/s": "1,500",
        "decode/s": "400",
        "a step": "4",
        "KV used": "25%",
        "prefix hits": "50% / 50%",
        "inbox": "4.0 KiB",
        "inbox hits": "- / -",
        "got/s": "1.0 KiB",
    }
    assert [row[""] for row in cells(found, "lost")] == [
        "language l:9102: frames rejected reason=checksum",
        "language l:9102: preemptions",
    ]
    (latency,) = cells(found, "latencies")
    assert latency[""] == "language: prefill"


def test_places_of_a_role_stand_together_and_their_latencies_are_one() -> None:
    first, second = router_sight(), router_sight()
    found = sheets(look(first, second))
    assert len(cells(found, "routers")) == 2
    sheet = next(sheet for sheet in found if sheet.title.startswith("latencies"))
    (fetch,) = [row for row in sheet.rows if row[0] == "router: fetch"]
    assert list(fetch[1:5]) == ["4.00", "50.0", "220", "8"]


def test_places_that_do_not_answer_are_shown_as_such() -> None:
    gone = Sight(place=metrics_place("e:9101"), role="encode", trouble="connection refused")
    unknown = Sight(place=metrics_place("x:1"), role=None, trouble="no answer within 5 s")
    text = plain(look(router_sight(), gone, unknown))
    assert "e:9101  no answer: connection refused" in text
    assert "x:1  no answer: no answer within 5 s" in text
    assert "r:8000" in text


def test_servers_as_the_router_lists_them() -> None:
    ready = {
        "role": "encode",
        "address": "10.0.0.1:9001",
        "ready": True,
        "version": "0.1.0",
        "load": {"running": 2, "waiting": 0, "queue_seconds": 0.25, "draining": False},
    }
    gone = {"role": "language", "address": "[::1]:9002", "ready": False, "trouble": "it \x1b[31mdoes not answer"}
    view = RouterView(ready="NO", waiting_for=["language server [::1]:9002"], servers=[ready, gone])
    text = plain(look(router_sight(), router=view))
    assert "encode 10.0.0.1:9001" in text
    assert "language [::1]:9002  NOT READY: it " in text
    assert "\x1b" not in text, "nobody else moves the cursor"
    assert "r:8000 waits for: language server [::1]:9002" in text
    (first, _) = cells(sheets(look(router_sight(), router=view)), "servers")
    assert (first["version"], first["running"], first["queue s"]) == ("0.1.0", "2", "0.25")


@pytest.mark.parametrize("entry", [{}, {"role": 1, "address": None, "ready": "yes"}, {"ready": True, "load": [1]}])
def test_odd_entries_of_other_versions_end_nothing(entry: dict[str, Any]) -> None:
    assert plain(look(router_sight(), router=RouterView(ready="yes", servers=[entry])))


def test_servers_that_need_a_key() -> None:
    view = RouterView(ready="yes", servers_trouble="an API key is needed: --api-key-file")
    assert "not shown: an API key is needed: --api-key-file" in plain(look(router_sight(), router=view))


def test_plain_text_has_no_colours_and_no_folded_lines() -> None:
    text = plain(look(*[router_sight() for _ in range(3)]))
    assert "\x1b" not in text
    assert text.endswith("\n")
    lines = text.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert lines[0].startswith("epd top")
    assert "rates over 2.0 s" in lines[0]
    assert sum(line.startswith("r:8000") for line in lines) == 3
