from __future__ import annotations

from pathlib import Path

from common.rpc import CHUNK_BYTES
from language_server.model_files import stream_model_files


def test_files_come_one_after_another_in_chunks(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "tokenizer.json": bytes(2 * CHUNK_BYTES + 1), "chat_template.jinja": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"not for routers")
    chunks = [(chunk.name, len(chunk.data), chunk.last) for chunk in stream_model_files(tmp_path)]
    assert chunks == [
        ("config.json", 2, True),
        ("tokenizer.json", CHUNK_BYTES, False),
        ("tokenizer.json", CHUNK_BYTES, False),
        ("tokenizer.json", 1, True),
        ("chat_template.jinja", 0, True),
    ]


def test_a_file_of_exactly_one_chunk_is_one_chunk(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(bytes(CHUNK_BYTES))
    assert [(len(chunk.data), chunk.last) for chunk in stream_model_files(tmp_path)] == [(CHUNK_BYTES, True)]
