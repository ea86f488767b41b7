"""What is shown, as tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deploy.remote import printable
from deploy.top.change import Change
from deploy.top.figures import NOTHING, milliseconds, number, percent, rate, size
from deploy.top.histogram import Histogram
from deploy.top.places import ROLES
from deploy.top.watch import Look, RouterView, Sight


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table; the first column names its rows. A row that is shorter ends in a sentence."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def sheets(look: Look) -> list[Sheet]:
    """All that there is to show, empty tables left out. A window that is not tall enough has the first of them."""
    found = [
        _servers(look),
        _losses(look),
        _places(look, "router", "routers", _router_columns(look)),
        _places(look, "encode", "encode servers", _ENCODE),
        _places(look, "language", "language servers", _LANGUAGE),
        _strangers(look),
        _stages(look),
    ]
    return [sheet for sheet in found if sheet.rows]


# -- places: one row each ----------------------------------------------------------------------------------------------

Column = tuple[str, Callable[[Sight], str]]


def _gauge(name: str, show: Callable[[float | None], str] = number, **labels: str) -> Callable[[Sight], str]:
    return lambda sight: show(sight.total.after.value(name, **labels) if sight.total is not None else None)


def _rate(name: str, show: Callable[[float | None], str] = rate) -> Callable[[Sight], str]:
    return lambda sight: show(sight.recent.rate(name) if sight.recent is not None else None)


def _hits(cache: str) -> Callable[[Sight], str]:
    """Since the last look / since the process began."""

    def share(change: Change | None) -> str:
        hits = change.share("epd_cache_hits_total", "epd_cache_misses_total", cache=cache) if change else None
        return percent(hits)

    return lambda sight: f"{share(sight.recent)} / {share(sight.total)}"


def _ratio(part: str, whole: str) -> Callable[[Sight], str]:
    """Of two counters since the last look."""

    def show(sight: Sight) -> str:
        if sight.recent is None or not (below := sight.recent.increase(whole)):
            return NOTHING
        return number(sight.recent.increase(part) / below)

    return show


def _kv(sight: Sight) -> str:
    if sight.total is None:
        return NOTHING
    used, there = (sight.total.after.value(name) for name in ("epd_kv_blocks_used", "epd_kv_blocks"))
    return percent(used / there) if used is not None and there else NOTHING


_ENCODE: Sequence[Column] = (
    ("running", _gauge("epd_requests_running")),
    ("waiting", _gauge("epd_requests_waiting")),
    ("queue s", _gauge("epd_queue_seconds", rate)),
    ("images/s", _rate("epd_encode_items_total")),
    ("a batch", _ratio("epd_encode_items_total", "epd_encodes_total")),
    ("sent/s", _rate("epd_transfer_bytes_total", size)),
    ("cached", _gauge("epd_cache_bytes", size)),
    ("pinned", _gauge("epd_cache_pins")),
    ("hits", _hits("embeddings")),
)
_LANGUAGE: Sequence[Column] = (
    ("running", _gauge("epd_requests_running")),
    ("waiting", _gauge("epd_requests_waiting")),
    ("queue s", _gauge("epd_queue_seconds", rate)),
    ("prefill/s", _rate("epd_prefill_tokens_total")),
    ("decode/s", _rate("epd_decode_tokens_total")),
    ("a step", _ratio("epd_decode_tokens_total", "epd_decode_steps_total")),
    ("KV used", _kv),
    ("prefix hits", _hits("prefix")),
    ("inbox", _gauge("epd_inbox_bytes", size)),
    ("inbox hits", _hits("inbox")),
    ("got/s", _rate("epd_transfer_bytes_total", size)),
)


def _router_columns(look: Look) -> Sequence[Column]:
    def ready(sight: Sight) -> str:
        view = look.routers.get(sight.place.name)
        return view.ready if view is not None else NOTHING

    return (
        ("ready", ready),
        ("running", _gauge("epd_requests_running")),
        ("requests/s", _rate("epd_requests_finished_total")),
        ("ever", _gauge("epd_requests_finished_total")),
        ("prompt/s", _rate("epd_prompt_tokens_total")),
        ("output/s", _rate("epd_output_tokens_total")),
        ("media held", _gauge("epd_media_bytes", size)),
        ("known sizes", _hits("grid")),
    )


def _places(look: Look, role: str, title: str, columns: Sequence[Column]) -> Sheet:
    rows = []
    for sight in look.of(role):
        if sight.trouble:
            rows.append([sight.place.name, f"no answer: {sight.trouble}"])
        else:
            rows.append([sight.place.name, *(show(sight) for _, show in columns)])
    return Sheet(title=title, columns=[name for name, _ in columns], rows=rows)


def _strangers(look: Look) -> Sheet:
    """Places that never said what they are."""
    rows = [[sight.place.name, f"no answer: {sight.trouble}"] for sight in look.sights if sight.role is None]
    return Sheet(title="others", columns=(), rows=rows)


def _servers(look: Look) -> Sheet:
    """As the first router lists them that does."""
    views = list(look.routers.values())
    view = next((view for view in views if view.servers), views[0] if views else None)
    if view is None:
        return Sheet(title="", columns=(), rows=())
    columns = ("", "version", "running", "waiting", "queue s")
    rows = [list(_server(entry)) for entry in view.servers] or _why_none(view)
    return Sheet(title="servers, as the router sees them", columns=columns, rows=rows)


def _server(entry: object) -> Iterator[str]:
    assert isinstance(entry, dict)
    role, address, version = (printable(str(entry.get(key) or NOTHING)) for key in ("role", "address", "version"))
    yield f"{role} {address}"
    if entry.get("ready") is not True:
        yield f"NOT READY: {printable(str(entry.get('trouble')))}"
        return
    load = entry.get("load")
    values = [load.get(name) if isinstance(load, dict) else None for name in ("running", "waiting", "queue_seconds")]
    running, waiting, queue = (value if isinstance(value, int | float) else None for value in values)
    yield from ("ready", version, number(running), number(waiting), rate(queue))


def _why_none(view: RouterView) -> list[list[str]]:
    return [["", f"not shown: {view.servers_trouble}"]] if view.servers_trouble else []


# -- all places of a role together -------------------------------------------------------------------------------------


def _stages(look: Look) -> Sheet:
    """Latencies, in milliseconds."""
    rows = []
    for name, shown in (("epd_time_to_first_token_seconds", "first token"), ("epd_inter_token_seconds", "next token")):
        rows.append(_latency(f"router: {shown}", look.of("router"), name))
    for role in ROLES:
        sights = look.of(role)
        stages = {
            stage
            for sight in sights
            if sight.total is not None
            for stage in sight.total.after.values_of("epd_stage_seconds_bucket", "stage")
        }
        rows += [
            _latency(f"{role}: {stage}", sights, "epd_stage_seconds", stage=stage)
            for stage in sorted(stages, key=_order)
        ]
    columns = ("/s", "p50", "p95", "ever", "p50", "p95")
    return Sheet(title="latencies in ms", columns=columns, rows=[r for r in rows if r])


# in the order of their time; one that is newer than this list comes last
_STAGES = (
    *("body", "parse", "template", "fetch", "hash", "receive", "header", "size", "tokenize", "grammar"),
    *("queue", "preprocess", "batch", "vision", "transfer", "inbox", "prefill", "decode"),
)


def _order(stage: str) -> tuple[int, str]:
    return (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), stage)


def _latency(label: str, sights: Sequence[Sight], name: str, **labels: str) -> list[str]:
    """Empty if nothing was ever observed."""
    recent, ever, per_second = Histogram(), Histogram(), 0.0
    for sight in sights:
        if sight.total is not None:
            ever += sight.total.histogram(name, **labels)
        if sight.recent is not None:
            recent += sight.recent.histogram(name, **labels)
            per_second += sight.recent.rate(f"{name}_count", **labels) or 0.0
    if not ever.count:
        return []
    now = [rate(per_second), milliseconds(recent, 0.5), milliseconds(recent, 0.95)]
    return [label, *now, number(ever.count), milliseconds(ever, 0.5), milliseconds(ever, 0.95)]


_LOSSES = (
    ("router", "epd_requests_failed_total", "status"),
    ("router", "epd_retries_total", "what"),
    ("router", "epd_migrations_total", "cause"),
    ("encode", "epd_requests_failed_total", "code"),
    ("encode", "epd_encodes_failed_total", ""),
    ("encode", "epd_ship_failures_total", "revoked"),
    ("language", "epd_requests_failed_total", ""),
    ("language", "epd_frames_rejected_total", "reason"),
    ("language", "epd_preemptions_total", ""),
)
# What clients did themselves is no loss of ours.
_CLIENTS = {
    "status": ("400", "401", "404", "405", "408", "413", "415", "431"),
    "code": ("invalid_request", "bad_media"),
}


def _losses(look: Look) -> Sheet:
    """What should not have happened: lost, tried again, moved."""
    rows = []
    for role, name, label in _LOSSES:
        for sight in look.of(role):
            if sight.total is None:
                continue
            kinds = [{label: value} for value in sight.total.after.values_of(name, label)] if label else [{}]
            for kind in kinds:
                ever = sight.total.increase(name, **kind)
                if not ever or any(value in _CLIENTS.get(key, ()) for key, value in kind.items()):
                    continue
                shown = ", ".join(f"{key}={value}" for key, value in kind.items())
                lately = sight.recent.increase(name, **kind) if sight.recent is not None else None
                what = name.removeprefix("epd_").removesuffix("_total").replace("_", " ")
                rows.append(
                    [f"{role} {sight.place.name}: {what} {printable(shown)}".rstrip(), number(lately), number(ever)]
                )
    rows = rows or ([["nothing", "0", "0"]] if any(sight.total is not None for sight in look.sights) else [])
    return Sheet(title="lost, tried again, moved", columns=("lately", "ever"), rows=rows)
