from __future__ import annotations

import pytest

from common.config import ROLES, ConfigError
from deploy.tools import TOOLS


def test_no_tool_is_called_as_a_role_is() -> None:
    assert not TOOLS.keys() & set(ROLES)


@pytest.mark.parametrize("name", TOOLS)
def test_help_names_the_tool(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        TOOLS[name].run(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: epd {name} ")


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("check", [], "URL"),
        ("check", ["http://h:1", "http://h:2"], "unrecognized arguments: http://h:2"),
        ("check", ["http://h:1", "--jso"], "unrecognized arguments: --jso"),
        ("check", ["h:1"], "is not the URL of a router"),
        ("check", ["http://h:1", "--timeout", "never"], "--timeout: 'never' is not a number of seconds"),
        ("check", ["http://h:1", "--api-key", "a", "--api-key-file", "b"], "not allowed with"),
        ("top", [], "what to look at"),
        ("top", ["--state-file", "/no/such/file"], "no process with metrics in /no/such/file"),
        ("top", ["--metrics", "9101"], "'9101' is not HOST:PORT"),
        ("top", ["--metrics", ":9101"], "':9101' is not HOST:PORT"),
        ("top", ["--metrics", "h:1", "--interval", "0"], "--interval"),
        ("top", ["http://h:1", "--onc"], "unrecognized arguments: --onc"),
    ],
)
def test_wrong_usage(name: str, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TOOLS[name].run(argv)
    assert message in str(error.value)
