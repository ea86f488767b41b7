"""The media of one item, put together from the chunks of an `Encode` stream."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InvalidRequestError
from common.media_key import media_digest
from common.rpc import CHUNK_BYTES


class Upload:
    """Chunks follow each other without regard to where a part ends; the announced sizes say that.

    Args:
        sizes: bytes of each part: of the file, or of each frame.
        digest: `common.media_key.media_digest` of the parts.
    """

    def __init__(self, *, sizes: Sequence[int], digest: bytes) -> None:
        self._sizes = tuple(sizes)
        self._digest = digest
        self._chunks: list[bytes] = []
        self._missing = sum(self._sizes)

    @property
    def complete(self) -> bool:
        return self._missing == 0

    def add(self, chunk: bytes) -> None:
        """Takes the next chunk.

        Raises:
            InvalidRequestError: it is empty, over 1 MiB, or more than was announced.
        """
        if not 0 < len(chunk) <= CHUNK_BYTES:
            raise InvalidRequestError(f"a chunk of {len(chunk)} bytes; 1 to {CHUNK_BYTES} are allowed")
        if len(chunk) > self._missing:
            total = sum(self._sizes)
            raise InvalidRequestError(f"more media bytes than the {total} that were announced")
        self._missing -= len(chunk)
        self._chunks.append(chunk)

    def parts(self) -> Sequence[bytes]:
        """The complete media, one entry a part.

        Raises:
            InvalidRequestError: they are not what their digest says.
        """
        assert self.complete
        whole = memoryview(b"".join(self._chunks))
        parts, start = [], 0
        for size in self._sizes:
            parts.append(bytes(whole[start : start + size]))
            start += size
        if media_digest(parts) != self._digest:
            raise InvalidRequestError("the media bytes are not those of the announced digest")
        return parts
