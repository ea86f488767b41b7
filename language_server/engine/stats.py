"""What the engine counts, by the names under which the front finds it (`language_server.metrics`)."""

from __future__ import annotations

from collections import Counter

from common.pb import language_pb2 as pb
from language_server.engine.block_manager import BlockManager
from language_server.engine.media_ledger import MediaLedger
from language_server.engine.request import Request
from language_server.engine.scheduler import Schedule, Scheduler

_OUTCOMES = {pb.Finished.ABORTED: "aborted", pb.Finished.ERROR: "failed"}  # all else is "finished"


class Stats(Counter[str]):
    """Counters since the start."""

    def count_admission(self, request: Request, *, missing: int) -> None:
        """A request was taken in; `missing` of its media items are not in the inbox."""
        items = {span.key for span in request.spans}
        self["accepted"] += 1
        self["inbox_hits"] += len(items) - missing
        self["inbox_misses"] += missing

    def count_step(self, schedule: Schedule) -> int:
        """A forward pass; the number of its tokens."""
        decodes = sum(1 for chunk in schedule.chunks if chunk.is_decode)
        prefill = sum(chunk.length for chunk in schedule.chunks if not chunk.is_decode)
        self["steps"] += 1
        self["prefill_tokens"] += prefill
        self["decode_tokens"] += decodes
        self["decode_steps"] += decodes > 0
        return prefill + decodes

    def count_end(self, reason: pb.Finished.Reason) -> None:
        self[_OUTCOMES.get(reason, "finished")] += 1


def gauges(scheduler: Scheduler, blocks: BlockManager, media: MediaLedger) -> dict[str, float]:
    """What the engine's parts hold and have counted."""
    return {
        "running": scheduler.running,
        "waiting": len(scheduler.unfinished) - scheduler.running,
        "preemptions": scheduler.preemptions,
        "prefix_hits": scheduler.prefix_hits,
        "prefix_misses": scheduler.prefix_misses,
        "cached_tokens": blocks.hit_tokens,
        "kv_blocks_used": blocks.used,
        "kv_blocks": blocks.num_blocks,
        "kv_evictions": blocks.evictions,
        "prefix_entries": blocks.cached,
        "inbox_bytes": media.needed_bytes,
        "inbox_cached_bytes": media.cached_bytes,
        "inbox_capacity_bytes": media.capacity,
        "inbox_entries": media.held_items,
        "inbox_pins": media.pins,
        "inbox_evictions": media.evictions,
        "inbox_stolen": media.stolen,
        "grant_stalls": media.stalls.count,
        "grant_stall_seconds": media.stalls.seconds,
        "grants_stalled": media.stalls.waiting,
    }
