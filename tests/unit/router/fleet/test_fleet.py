from __future__ import annotations

from router.config import RouterConfig
from router.fleet.fleet import Fleet


def test_what_is_waited_for_before_the_first_look() -> None:
    config = RouterConfig(encode=())
    assert Fleet(config).readiness().waiting_for == (
        "the language servers are not yet reached",
        "no encode server is configured",
    )
