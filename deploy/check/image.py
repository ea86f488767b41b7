"""An image that nobody has seen before, so that no cache can answer for a server."""

from __future__ import annotations

import base64
import os
import struct
import zlib

SIDE = 256  # pixels, which Qwen3-VL neither enlarges nor shrinks
_CELL = 32  # pixels of one colour, as many as one visual token covers


def fresh_png() -> bytes:
    """SIDE x SIDE pixels in a pattern of colours that are drawn anew each time.

    PNG as in its specification (W3C, third edition): signature, then chunks of length, type, data and CRC.
    """
    cells = SIDE // _CELL
    rows = []
    for _ in range(cells):
        colours = os.urandom(3 * cells)
        line = b"".join(colours[3 * i : 3 * i + 3] * _CELL for i in range(cells))
        rows.append((b"\0" + line) * _CELL)  # filter 0: bytes as they are
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def fresh_data_uri() -> str:
    return f"data:image/png;base64,{base64.b64encode(fresh_png()).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
