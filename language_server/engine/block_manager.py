"""Blocks of KV cache: who holds which, and the prefix cache over them.

A full block's identity is a hash chain: SHA-256 over its parent's, its token ids, and (MediaKey, row offset, place)
of each span in it, rooted in the tenant's salt. So two images with spans of equal length never share a block, the same
image in two requests does, and nothing is ever shared between tenants.

    free list   [ never used or forgotten | least recently released ... most recently released ]
                                            still cached: found by hash until it is handed out again
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

from language_server.engine.request import Request


class BlockManager:
    """Hands out block ids 0 .. num_blocks-1 of `block_size` tokens each."""

    def __init__(self, *, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._prefix_caching = prefix_caching
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self.evictions = 0
        self.hit_tokens = 0  # that did not have to be computed

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that the prefix cache knows, held by requests or not."""
        return len(self._block_of)

    def needed(self, request: Request, end: int) -> int:
        """Blocks that `request` lacks to hold tokens [0, end)."""
        return -(-end // self.block_size) - len(request.block_table)

    def allocate(self, request: Request, count: int) -> None:
        """Appends `count` blocks to the request's table. The caller has checked `free`."""
        assert count <= self.free, f"{count} blocks wanted, {self.free} are free"
        for _ in range(count):
            request.block_table.append(self._take())

    def release(self, request: Request) -> None:
        """Gives all of the request's blocks back; the last first, so that prefixes outlive their continuations."""
        for block in reversed(request.block_table):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
        request.block_table.clear()
        request.computed = 0

    def extend_hit(self, request: Request, *, may_copy: bool = True) -> tuple[int, int] | None:
        """Takes over cached blocks that continue what the request has computed; moves `request.computed`.

        At least one token stays to be computed, for its logits. When every token is cached, the last block is not
        shared but has to be copied: (from, to) is returned, and the copy has to be made before the next forward.
        """
        before = request.computed
        copy = self._extend_hit(request, may_copy)
        self.hit_tokens += request.computed - before
        return copy

    def _extend_hit(self, request: Request, may_copy: bool) -> tuple[int, int] | None:
        size = self.block_size
        if not self._prefix_caching or request.needs_all_logits or request.computed != len(request.block_table) * size:
            return None
        while (end := request.computed + size) <= request.num_tokens:
            block = self._block_of.get(self._hash(request, end // size - 1))
            if block is None:
                return None
            if end == request.num_tokens:
                if not self.free or not may_copy:
                    return None
                self._touch(block)
                copy = self._take()
                request.block_table.append(copy)
                request.computed = end - 1
                return block, copy
            self._free.pop(block, None)
            self._references[block] += 1
            request.block_table.append(block)
            request.computed = end
        return None

    def register(self, request: Request, start: int) -> None:
        """Makes the blocks that became full since token `start` known to the prefix cache."""
        if not self._prefix_caching:
            return
        for index in range(start // self.block_size, request.computed // self.block_size):
            block, key = request.block_table[index], self._hash(request, index)
            if self._hash_of[block] is None and key not in self._block_of:
                self._hash_of[block] = key
                self._block_of[key] = block

    def forget(self, request: Request) -> None:
        """Takes the request's blocks out of the prefix cache."""
        for block in request.block_table:
            self._uncache(block)

    def check(self, requests: list[Request]) -> None:
        """Asserts that references, tables and free list agree; for tests, and for when the engine is idle."""
        counted = [0] * self.num_blocks
        for request in requests:
            for block in request.block_table:
                counted[block] += 1
        assert counted == self._references, "block references do not match the block tables"
        assert {b for b, n in enumerate(counted) if n == 0} == set(self._free), "the free list is not what is unused"
        assert all(self._hash_of[block] == key for key, block in self._block_of.items()), "a stale prefix-cache entry"

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        self.evictions += self._uncache(block)
        self._references[block] = 1
        return block

    def _uncache(self, block: int) -> bool:
        """Whether the prefix cache knew the block."""
        key, self._hash_of[block] = self._hash_of[block], None
        if key is None:
            return False
        del self._block_of[key]
        return True

    def _touch(self, block: int) -> None:
        """Moves a cached block to the young end of the free list, so that it is not the next to be handed out."""
        if block in self._free:
            self._free.move_to_end(block)

    def _hash(self, request: Request, index: int) -> bytes:
        hashes = request.block_hashes
        while len(hashes) <= index:
            start = len(hashes) * self.block_size
            end = start + self.block_size
            digest = hashlib.sha256(hashes[-1] if hashes else b"epd kv root 1" + request.salt)
            digest.update(array("I", request.tokens(start, end)).tobytes())
            for span, first, _ in request.spans_in(start, end):
                row = span.row_offset + first - span.token_offset
                digest.update(span.key + row.to_bytes(8, "little") + (first - start).to_bytes(8, "little"))
            hashes.append(digest.digest())
        return hashes[index]
