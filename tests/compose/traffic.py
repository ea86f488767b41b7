"""Clients that go on asking in the background while something happens to the system."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import httpx

from tests.compose.questions import ask, fresh_image

Sort = Literal["text", "image"]
_TIMEOUT_S = 60.0


@dataclass(kw_only=True)
class Tally:
    """Of one sort of requests."""

    seconds: list[float] = field(default_factory=list)  # of those that were answered
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        took = f", median {median(self.seconds):.2f} s" if self.seconds else ""
        return f"{len(self.seconds)} answered{took}, {len(self.failures)} failed"


@dataclass(kw_only=True)
class Traffic:
    """What became of the requests so far."""

    text: Tally = field(default_factory=Tally)
    image: Tally = field(default_factory=Tally)

    def of(self, sort: Sort) -> Tally:
        return self.text if sort == "text" else self.image

    def check(self, *sorts: Sort, at_least: int = 3) -> None:
        """Raises AssertionError if one of these sorts had a failure, or too few requests to tell."""
        for sort in sorts:
            tally = self.of(sort)
            assert not tally.failures, f"{sort}: {tally}: {tally.failures[:3]}"
            assert len(tally.seconds) >= at_least, f"{sort}: only {tally}"


@contextmanager
def traffic(url: str, *, texts: int = 2, images: int = 2) -> Iterator[Traffic]:
    """So many clients ask one question after another, each image a new one; the last ones are waited for."""
    found = Traffic()
    over = threading.Event()
    sorts: list[Sort] = [*["text"] * texts, *["image"] * images]  # type: ignore[list-item]
    clients = [threading.Thread(target=_ask_on, args=(url, sort, found.of(sort), over)) for sort in sorts]
    for client in clients:
        client.start()
    try:
        yield found
    finally:
        over.set()
        for client in clients:
            client.join()


def _ask_on(url: str, sort: Sort, tally: Tally, over: threading.Event) -> None:
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client:
        while not over.is_set():
            begin = time.monotonic()
            try:
                ask(client, fresh_image() if sort == "image" else None)
            except (httpx.HTTPError, AssertionError) as error:
                tally.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.2)  # a system that refuses is not to be flooded
            else:
                tally.seconds.append(time.monotonic() - begin)
