"""Room for embeddings: which items lie in the arena, which are on their way, and who may have what room.

One order rules, the arrival of requests and within a request the order of the prompt: whoever stands first can take
room from anybody behind it, never the other way round. That keeps it free of deadlock, with any number of items.

    absent --grant--> GRANTED --filled--> HELD --rows in KV--> HELD, evictable --> absent
                         |  revoked (room taken, request gone, grant lost)
                         v
                      CLOSING --closed: no writer is left--> absent
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from common.embeddings import EmbeddingLayout
from common.media_key import MediaKey
from language_server.engine.arena import PAGE_BYTES
from language_server.engine.grant_stalls import GrantStalls
from language_server.engine.request import Request


class Extents:
    """First-fit allocation of whole pages; low addresses are used first, so that they stay warm."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._taken: dict[int, int] = {}  # offset -> length, kept in order of offset

    @property
    def used(self) -> int:
        return sum(self._taken.values())

    def take(self, length: int) -> int | None:
        """The offset of a free range, or None when no gap is wide enough."""
        length = -(-length // PAGE_BYTES) * PAGE_BYTES
        start = 0
        for offset, taken in self._taken.items():
            if offset - start >= length:
                break
            start = offset + taken
        if self.capacity - start < length:
            return None
        self._taken = dict(sorted([*self._taken.items(), (start, length)]))
        return start

    def give_back(self, offset: int) -> None:
        del self._taken[offset]


class State(enum.Enum):
    GRANTED = "granted"
    HELD = "held"
    CLOSING = "closing"


@dataclass(kw_only=True, eq=False)
class Item:
    """One media item with room in the arena; `owner` is the request whose router was told to send it."""

    key: MediaKey
    layout: EmbeddingLayout
    offset: int
    grant_id: bytes
    owner: Request
    state: State = State.GRANTED
    last_used: int = 0


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A new grant: the front opens its region and tells the owner's router."""

    request: Request
    item: Item


@dataclass(kw_only=True)
class Changes:
    """What happened since the last `take_changes`, for the front and the routers."""

    opened: list[Opened] = field(default_factory=list)
    revoked: list[bytes] = field(default_factory=list)
    received: list[tuple[Request, MediaKey]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.opened or self.revoked or self.received)


class MediaLedger:
    """The engine's book of the arena; it moves no bytes."""

    def __init__(self, *, capacity: int, layout_of: Callable[[int], EmbeddingLayout]) -> None:
        self._extents = Extents(capacity)
        self._layout_of = layout_of  # rows -> layout
        self._items: dict[MediaKey, Item] = {}
        self._by_grant: dict[bytes, Item] = {}  # GRANTED and CLOSING
        self._wanted: dict[MediaKey, tuple[int, int]] = {}  # key -> the best (arrival, place in prompt) that needs it
        self._clock = 0
        self._changes = Changes()
        self.evictions = 0
        self.stolen = 0
        self.stalls = GrantStalls()

    @property
    def capacity(self) -> int:
        """Bytes of the arena."""
        return self._extents.capacity

    @property
    def held_items(self) -> int:
        """Whether somebody needs them or not."""
        return sum(item.state is State.HELD for item in self._items.values())

    @property
    def cached_bytes(self) -> int:
        """Of held items, whether somebody needs them or not."""
        return sum(item.layout.total_bytes for item in self._items.values() if item.state is State.HELD)

    @property
    def needed_bytes(self) -> int:
        """Of granted room, and of held items that an unfinished request still needs."""
        items = {item.grant_id: item for item in (*self._items.values(), *self._by_grant.values())}
        needed = (item for item in items.values() if item.state is not State.HELD or item.key in self._wanted)
        return sum(item.layout.total_bytes for item in needed)

    @property
    def pins(self) -> int:
        """Held items that an unfinished request still needs."""
        return sum(item.state is State.HELD and item.key in self._wanted for item in self._items.values())

    def held(self, key: MediaKey) -> bool:
        item = self._items.get(key)
        return item is not None and item.state is State.HELD

    def rows_of(self, key: MediaKey) -> int | None:
        """Rows of the item that has room under `key`, if there is one."""
        item = self._items.get(key)
        return None if item is None else item.layout.rows

    def discard(self, key: MediaKey) -> None:
        """Lets go of what is held under `key`; who still needs it gets it sent anew."""
        if self.held(key):
            self._drop(self._items[key])

    def lookup(self, key: MediaKey) -> Item:
        """The held item of `key`, marked as used."""
        item = self._items[key]
        assert item.state is State.HELD, f"rows of an item that is {item.state.value}"
        self._clock += 1
        item.last_used = self._clock
        return item

    def fits(self, rows: int) -> bool:
        return self._layout_of(rows).total_bytes <= self._extents.capacity

    def take_changes(self) -> Changes:
        changes, self._changes = self._changes, Changes()
        return changes

    # -- what the front reports ---------------------------------------------------------------------------------

    def filled(self, grant_id: bytes, unfinished: Iterable[Request]) -> list[Request]:
        """Every byte of the grant is verified and in place. A grant that was revoked meanwhile is left to `closed`.

        Returns:
            Those of `unfinished` that wanted the item.
        """
        item = self._by_grant.get(grant_id)
        if item is None or item.state is not State.GRANTED:
            return []
        del self._by_grant[grant_id]
        item.state = State.HELD
        self._clock += 1
        item.last_used = self._clock
        wanted_by = [request for request in unfinished if item.key in request.needed_keys()]
        self._changes.received += [(request, item.key) for request in wanted_by]
        return wanted_by

    def closed(self, grant_id: bytes) -> Item | None:
        """Nobody writes under this grant any more, because we revoked it or because of a bad frame."""
        item = self._by_grant.pop(grant_id, None)
        if item is None:
            return None
        self._extents.give_back(item.offset)
        if self._items.get(item.key) is item:
            del self._items[item.key]
        return item

    def lost(self, request: Request, key: MediaKey, grant_id: bytes) -> None:
        """The router says that nobody will use the grant. Only its owner's word counts."""
        item = self._by_grant.get(grant_id)
        if item is not None and item.key == key and item.owner is request:
            self._revoke(item)

    def forget(self, request: Request) -> None:
        """The request has ended: what is on its way for it comes to nobody."""
        for item in list(self._by_grant.values()):
            if item.owner is request:
                self._revoke(item)

    # -- room ---------------------------------------------------------------------------------------------------

    def assign_room(self, unfinished: Iterable[Request]) -> None:
        """Grants room to every needed item that has none, in the one order, until one has to wait."""
        requests = [request for request in unfinished if request.lacks_rows]
        self._wanted = {}
        for request in requests:
            for place, key in enumerate(request.needed_keys()):
                self._wanted.setdefault(key, (request.arrival, place))
        self._grant(requests)
        self.stalls.update([key for key in self._wanted if key not in self._items])

    def _grant(self, requests: Iterable[Request]) -> None:
        for request in requests:
            for place, key in enumerate(request.needed_keys()):
                if key in self._items:
                    continue
                rows = next(span.item_rows for span in request.spans if span.key == key)
                layout = self._layout_of(rows)
                offset = self._make_room(layout.total_bytes, (request.arrival, place))
                if offset is None:
                    return
                item = Item(key=key, layout=layout, offset=offset, grant_id=secrets.token_bytes(16), owner=request)
                self._items[key] = item
                self._by_grant[item.grant_id] = item
                self._changes.opened.append(Opened(request=request, item=item))

    def _make_room(self, length: int, rank: tuple[int, int]) -> int | None:
        """The offset of a gap of `length` bytes, if need be at the cost of items that nobody ahead of `rank` needs."""
        if (offset := self._extents.take(length)) is not None:
            return offset
        if any(item.state is State.CLOSING for item in self._by_grant.values()):
            return None  # room is on its way; taking more now would take too much
        for victim in self._victims(rank):
            if victim.state is State.GRANTED:
                self.stolen += 1
                self._revoke(victim)
                return None
            self._drop(victim)
            self.evictions += 1
            if (offset := self._extents.take(length)) is not None:
                return offset
        return None

    def _victims(self, rank: tuple[int, int]) -> Iterator[Item]:
        """Items that `rank` may take the room of: unneeded ones, longest unused first; then the last in the order."""
        wanted = self._wanted
        unneeded = [item for item in self._items.values() if item.key not in wanted]
        yield from sorted(unneeded, key=lambda item: (item.state is State.GRANTED, item.last_used))
        behind = [item for item in self._items.values() if item.key in wanted and wanted[item.key] > rank]
        yield from sorted(behind, key=lambda item: wanted[item.key], reverse=True)

    def _revoke(self, item: Item) -> None:
        """The grant is void now; its room comes back with `closed`, its key may be granted anew at once."""
        if item.state is State.CLOSING:
            return
        item.state = State.CLOSING
        if self._items.get(item.key) is item:
            del self._items[item.key]
        self._changes.revoked.append(item.grant_id)

    def _drop(self, item: Item) -> None:
        assert item.state is State.HELD, f"an item that is {item.state.value} can't be dropped"
        del self._items[item.key]
        self._extents.give_back(item.offset)
