from pathlib import Path

import pytest

from common.config import parse
from common.options import options_of
from deploy.local import PASSED_ON, config_argv, role_argv, router_environ
from deploy.programs import FAKES, PROGRAMS
from deploy.serve_config import NOT_OF_FAKES, ServeConfig
from router.config import RouterConfig


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
        "--host 0.0.0.0 --port 1 --workers 3 --served-model-name a b --api-key-file /k"
    )
    parsed = parse(PROGRAMS[role].config_class(), role, role_argv(config(everything), role), {})
    for name in ("dtype", "kv_cache_bytes", "encode_cache_bytes", "served_model_name", "api_key_file", "workers"):
        if name in PASSED_ON[role]:
            assert getattr(parsed, name) == getattr(config(everything), name)


def test_a_roles_table_comes_under_its_environment(tmp_path: Path) -> None:
    file = tmp_path / "epd.toml"
    file.write_text("port = 1\n[router]\nmax-images = 2\nmax-videos = 3\n[encode]\ndelay = 1")
    given = {"EPD_ROUTER_MAX_VIDEOS": "4", "HOME": "/"}
    argv = config_argv(config(f"--fake --config {file}"), "router", tmp_path)
    router = parse(RouterConfig, "router", argv, given)
    assert (router.max_images, router.max_videos, router.port) == (2, 4, 8000)
    assert config_argv(config(f"--fake --config {file}"), "language", tmp_path) == []


def test_keys_reach_the_router_as_they_are_and_nobody_else(tmp_path: Path) -> None:
    file = tmp_path / "epd.toml"
    file.write_text('[router]\napi_key = "older"\nmax-images = 2')
    keys = ("se,cret", "#two", "th ree")
    given = ServeConfig(model="m", api_key=keys, config=file)
    environ = router_environ(given, {"EPD_ROUTER_API_KEY": "oldest", "HOME": "/"})
    assert environ == {"HOME": "/"}
    argv = [*role_argv(given, "router"), *config_argv(given, "router", tmp_path)]
    assert not any(key in word for key in keys for word in argv)
    router = parse(RouterConfig, "router", argv, environ)
    assert (router.api_key, router.max_images) == (keys, 2)
    assert (tmp_path / "router.toml").stat().st_mode & 0o777 == 0o600
    assert config_argv(given, "encode", tmp_path) == []


def test_without_keys_of_its_own_serve_leaves_the_routers_alone() -> None:
    given = {"EPD_ROUTER_API_KEY": "key"}
    assert router_environ(config("--fake"), given) == given


@pytest.mark.parametrize("role", ["encode", "language"])
def test_fakes_understand_what_is_not_refused(role: str) -> None:
    """`epd serve --fake` refuses exactly those options that a fake does not have."""
    fake = {option.field for option in options_of(FAKES[role].config_class())}
    for name in PASSED_ON[role]:
        assert (name in fake) != (name in NOT_OF_FAKES), name
