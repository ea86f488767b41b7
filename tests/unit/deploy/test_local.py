from pathlib import Path

import pytest

from common.config import parse
from deploy.local import role_argv, role_environ
from deploy.programs import PROGRAMS
from deploy.serve_config import ServeConfig


def config(line: str) -> ServeConfig:
    return parse(ServeConfig, "serve", line.split(), {})


def test_roles_get_what_was_given_and_nothing_else() -> None:
    assert role_argv(config("--model m"), "router") == [
        *("--log-level", "info", "--log-format", "text", "--host", "127.0.0.1", "--port", "8000")
    ]
    language = role_argv(config("--model m --kv-cache-bytes 3GiB --log-level error --dtype float32"), "language")
    assert language == [
        *("--log-level", "error", "--log-format", "text", "--model", "m", "--dtype", "float32"),
        *("--kv-cache-bytes", "3GiB"),
    ]


@pytest.mark.parametrize("role", ["encode", "language", "router"])
def test_roles_understand_what_they_get(role: str) -> None:
    everything = (
        "--model m --revision r --dtype float32 --transport zmq --encode-cache-bytes 3GiB --max-model-len 100 "
        "--max-num-seqs 3 --max-step-tokens 64 --kv-cache-bytes 1GiB --gpu-memory-fraction 0.5 --inbox-bytes 1GiB "
        "--host 0.0.0.0 --port 1 --served-model-name a b --api-key-file /k"
    )
    parsed = parse(PROGRAMS[role].config_class(), role, role_argv(config(everything), role), {})
    for name in ("dtype", "kv_cache_bytes", "encode_cache_bytes", "served_model_name", "api_key_file"):
        if hasattr(parsed, name):
            assert getattr(parsed, name) == getattr(config(everything), name)


def test_a_roles_table_comes_under_its_environment(tmp_path: Path) -> None:
    file = tmp_path / "epd.toml"
    file.write_text("port = 1\n[router]\nmax-images = 2\nmax-videos = 3\n[encode]\ndelay = 1")
    given = {"EPD_ROUTER_MAX_VIDEOS": "4", "HOME": "/"}
    environ = role_environ(config(f"--fake --config {file}"), "router", given)
    assert environ == {"EPD_ROUTER_MAX_IMAGES": "2", "EPD_ROUTER_MAX_VIDEOS": "4", "HOME": "/"}


def test_keys_are_not_on_a_command_line_that_everybody_can_read() -> None:
    with_keys = config("--model m --api-key one two")
    assert not {"one", "two"} & set(role_argv(with_keys, "router"))
    assert role_environ(with_keys, "router", {})["EPD_ROUTER_API_KEY"] == "one,two"
    assert role_environ(with_keys, "encode", {}) == {}
