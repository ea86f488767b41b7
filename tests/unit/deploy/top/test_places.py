from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import generate_latest

from common.config import ConfigError
from common.state import ProcessState, write_processes
from deploy.top.places import metrics_place, once_each, places_of, role_of, router_place
from deploy.top.scrape import Scrape
from encode_server.metrics import EncodeMetrics
from language_server.metrics import LanguageMetrics
from router.metrics import RouterMetrics


def test_the_state_file_of_serve_names_all_places(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_processes(
        file,
        [
            ProcessState(role="serve", pid=1),
            ProcessState(role="encode", pid=2, addresses={"grpc": "127.0.0.1:9001", "metrics": "127.0.0.1:9101"}),
            ProcessState(role="language", pid=3, addresses={"grpc": "127.0.0.1:9002", "data": "127.0.0.1:9003"}),
            ProcessState(role="router", pid=4, addresses={"http": "127.0.0.1:8000"}),
        ],
    )
    encode, router = places_of(file)
    assert (encode.name, encode.base, encode.role) == ("127.0.0.1:9001", "http://127.0.0.1:9101", "encode")
    assert (router.name, router.base, router.role) == ("127.0.0.1:8000", "http://127.0.0.1:8000", "router")


def test_a_state_file_without_anything_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has it started yet"):
        places_of(tmp_path / "not-there.json")
    (tmp_path / "wrong.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a state file"):
        places_of(tmp_path / "wrong.json")


def test_a_place_that_is_named_twice_is_one() -> None:
    places = once_each([metrics_place("a:1"), router_place("http://r:8000"), metrics_place("a:1")])
    assert [place.base for place in places] == ["http://a:1", "http://r:8000"]


@pytest.mark.parametrize(
    ("role", "metrics"), [("router", RouterMetrics()), ("encode", EncodeMetrics()), ("language", LanguageMetrics())]
)
def test_metrics_tell_whose_they_are(role: str, metrics: RouterMetrics | EncodeMetrics | LanguageMetrics) -> None:
    """Before anything was counted, too."""
    assert role_of(Scrape.parse(generate_latest(metrics.registry).decode(), 0.0)) == role


def test_metrics_of_others_are_nobodys() -> None:
    assert role_of(Scrape.parse("# TYPE go_threads gauge\ngo_threads 7\n", 0.0)) is None
