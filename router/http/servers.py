"""What this router knows of its servers, as JSON."""

from __future__ import annotations

import math
from typing import Any

from common.pb import common_pb2
from router.fleet.fleet import Fleet
from router.fleet.servers import Server


def servers_json(fleet: Fleet) -> dict[str, Any]:
    """Every encode and language server, and every name that can't be resolved, which stands where its servers would."""
    shown: list[dict[str, Any]] = []
    for role, pool in (("encode", fleet.encode), ("language", fleet.language)):
        shown += [_server(server, fleet.obstacle(server)) for _, server in sorted(pool.servers.items())]
        shown += [
            {"role": role, "address": name, "ready": False, "trouble": trouble}
            for name, trouble in pool.unresolved.items()
        ]
    return {"servers": shown}


def _server(server: Server, obstacle: str) -> dict[str, Any]:
    load = server.load
    return {
        "role": server.role,
        "address": server.address,
        "ready": not obstacle,
        "trouble": obstacle or None,
        "version": server.version or None,
        "load": {
            "queue_seconds": load.queue_seconds if math.isfinite(load.queue_seconds) else None,
            "running": load.running,
            "waiting": load.waiting,
            "draining": load.draining,
        },
        "model": _model(server.info) if server.info is not None else None,
    }


def _model(info: common_pb2.ModelInfo) -> dict[str, Any]:
    """What a server says of its model; zeros are what only servers of the other role know."""
    facts = {
        "name": info.name,
        "architecture": info.architecture,
        "fingerprint": info.fingerprint.hex(),
        "dtype": common_pb2.DType.Name(info.dtype).lower(),
        "max_model_len": info.max_model_len,
        "max_item_rows": info.max_item_rows,
        "processor_version": info.processor_version,
    }
    return {**{name: fact for name, fact in facts.items() if fact}, "vision": info.vision, "fake": info.fake}
