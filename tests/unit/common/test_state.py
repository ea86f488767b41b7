import json
import os
from pathlib import Path

import pytest

from common.state import ProcessState, read_state, write_processes, write_state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "state.json"
    write_state(path, "encode", {"grpc": "127.0.0.1:9001"})
    assert read_state(path) == (ProcessState(role="encode", pid=os.getpid(), addresses={"grpc": "127.0.0.1:9001"}),)


def test_the_format_that_scripts_rely_on(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_processes(
        path,
        [ProcessState(role="serve", pid=1), ProcessState(role="router", pid=2, addresses={"http": "127.0.0.1:8000"})],
    )
    assert json.loads(path.read_text()) == {
        "processes": [
            {"role": "serve", "pid": 1, "addresses": {}},
            {"role": "router", "pid": 2, "addresses": {"http": "127.0.0.1:8000"}},
        ]
    }


def test_it_is_replaced_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(path, "encode", {"grpc": "a:1"})
    with path.open() as before:
        write_state(path, "router", {"http": "b:2"})
        assert json.load(before)["processes"][0]["role"] == "encode"  # an open reader still has the old one
    assert read_state(path)[0].role == "router"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_without_a_path_nothing_happens() -> None:
    write_state(None, "encode", {})


def test_a_file_that_is_not_there_yet_has_no_processes(tmp_path: Path) -> None:
    assert read_state(tmp_path / "state.json") == ()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"processes": [{"role": "encode"}]}', '{"processes": 3}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a state file"):
        read_state(path)
