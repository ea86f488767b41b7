"""What a fake encode server does wrong on request, so that others can be seen to cope."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

from common.pb import embedding_pb2 as pb
from common.transport.base import Outgoing
from common.transport.frame import Frame, cut


class Faults:
    """Draws from `seed`; each rate is a share of 1.

    Args:
        fail_rate: of items whose encoding fails.
        corrupt_rate: of shipments in which a byte is flipped after the frame was sealed.
        drop_rate: of shipments in which a frame is withheld.
    """

    def __init__(self, *, fail_rate: float, corrupt_rate: float, drop_rate: float, seed: int) -> None:
        self._fail_rate = fail_rate
        self._corrupt_rate = corrupt_rate
        self._drop_rate = drop_rate
        self._random = random.Random(seed)

    def fails(self) -> bool:
        """Whether the next item's encoding fails."""
        return self._random.random() < self._fail_rate

    async def cut(self, grant: pb.Grant, item: Outgoing) -> AsyncGenerator[Frame, None]:
        """The frames of `item`; it is the first one that is spoilt."""
        corrupt = self._random.random() < self._corrupt_rate
        drop = self._random.random() < self._drop_rate
        async for frame in cut(grant, item):
            if drop:
                drop = False
            elif corrupt:
                corrupt = False
                yield Frame(sealed=frame.sealed, payload=self._flip(frame.payload))
            else:
                yield frame

    def _flip(self, payload: memoryview) -> memoryview:
        spoilt = bytearray(payload)
        spoilt[self._random.randrange(len(spoilt))] ^= 1 << self._random.randrange(8)
        return memoryview(spoilt)
