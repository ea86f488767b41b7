"""Labels of the router's metrics hold nothing that a client sends: there are as many series after any traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from router.metrics import STAGES
from tests.integration.router.system import Router, body_of, says, system
from tests.integration.router.test_media import image, text
from tests.integration.router.web import Web, web_server
from tests.unit.deploy.test_metrics_page import PAGE

ROUNDS = 10
# What docs/metrics.md says that a label can hold.
LISTED: Mapping[str, set[str]] = {
    "endpoint": {"chat completion", "completion", "response", "message", "token count", "tokenize", "detokenize"},
    "outcome": {"finished", "failed", "aborted"},
    "stage": set(STAGES),
    "what": {"encode", "language"},
    "cause": {"death", "moved"},
    "cache": {"grid", "alias"},
}
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)


async def test_series_do_not_grow_with_what_clients_send() -> None:
    keys = tuple(f"key-{number}" for number in range(ROUNDS))
    async with web_server() as web:
        config = replace(web.config(), api_key=keys)
        async with system(says("ok"), config=config) as (router, _, _):
            asked = 0
            for number, key in enumerate(keys):
                asked += await round_of_requests(router, web, key, number)
                if number == 1:
                    first = await labels_of_series(router, key, asked)
            last = await labels_of_series(router, keys[0], asked)
    assert last == first, "ten rounds of requests have the series of two"
    found: dict[str, set[str]] = {}
    for _, labels in last:
        for label, value in labels:
            found.setdefault(label, set()).add(value)
    bounds = found.pop("le")
    assert len(bounds) < 40
    for bound in bounds:
        float(bound)
    statuses = found.pop("status")
    assert statuses <= {str(int(status)) for status in HTTPStatus}
    assert {"400", "401", "404", "405"} <= statuses, "the requests came to where they are counted"
    assert found.keys() == LISTED.keys()
    for label, values in found.items():
        assert values <= LISTED[label], label
        assert all(f"`{value}`" in PAGE for value in LISTED[label]), label
    assert found["endpoint"] == LISTED["endpoint"]


async def round_of_requests(router: Router, web: Web, key: str, number: int) -> int:
    """All kinds of requests, each with `number` wherever a client may write; how many of them came to an endpoint."""
    client, odd = router.client, f"odd-{number}"
    headers = {"authorization": f"Bearer {key}", "x-request-id": odd, "user-agent": odd, "traceparent": odd, odd: odd}
    chats: list[dict[str, Any]] = [
        body_of(f"hi {odd}", user=odd, metadata={odd: odd}, **{odd: 1}),
        body_of("hi", model=odd),
        body_of("hi", response_format={"type": odd}),
        body_of("hi", tools=[{"type": odd}]),
        body_of([text("What is"), {**image(odd.encode()), "uuid": odd}]),
        body_of([image(f"bad {odd}".encode())]),
        body_of([{"type": odd}]),
        *(
            body_of([{"type": "image_url", "image_url": {"url": url}}])
            for url in (
                f"{web.url}/image?{odd}",
                f"{web.url}/{odd}",
                f"http://{odd}.invalid/",
                f"{odd}:{odd}",
                f"data:image/{odd};base64,!",
            )
        ),
    ]
    posts = [client.post("/v1/chat/completions", json=body, headers=headers) for body in chats]
    for path in PATHS:
        kind = {"content-type": f"text/{odd}"}
        posts.append(client.post(path, json={odd: odd}, headers=headers))
        posts.append(client.post(f"{path}?{odd}", content=odd, headers={**headers, **kind}))
        posts.append(client.post(path, json={}, headers={"authorization": f"Bearer {odd}"}))
    others = [
        client.request(method, path, headers=headers)
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", f"BREW{'X' * number}")
        for path in (f"/v1/{odd}", f"/{odd}", f"/v1/models/{odd}", f"/v1/responses/{odd}", "/v1/chat/completions")
    ]
    await asyncio.gather(*posts, *others)
    return len(posts)


async def labels_of_series(router: Router, key: str, asked: int) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Names and labels of all series, once `asked` requests have ended; that is after their answers were sent."""

    def ended() -> bool:
        metrics = router.services.metrics.registry.collect()
        samples = [sample for metric in metrics for sample in metric.samples]
        return sum(sample.value for sample in samples if sample.name == "epd_request_seconds_count") == asked

    await router.until(ended)
    page = (await router.client.get("/metrics", headers={"authorization": f"Bearer {key}"})).text
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    series = [(sample.name, frozenset(sample.labels.items())) for sample in samples]
    assert len(set(series)) == len(series) > 100
    return set(series)
