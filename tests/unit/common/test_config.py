from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Literal

import pytest

from common.config import Address, CommonOptions, ConfigError, Size, describe, option, parse, read_table, write_table


@dataclass(frozen=True, kw_only=True)
class KettleConfig(CommonOptions):
    """Boils water.

    Not for the help.
    """

    model: str = option(help="which kettle")
    listen: Address = option("127.0.0.1:1", help="where")
    room_bytes: Size = option(1 << 30, help="how much, at most 100%")
    limit: Size | None = option(None, help="computed if not given")
    mode: Literal["slow", "fast"] = option("slow", help="how")
    servers: tuple[Address, ...] = option((), help="others")
    warm: bool = option(True, help="keep warm")
    seconds: float = option(1.5, help="how long")
    count: int = option(3, help="how many")
    key: tuple[str, ...] = option((), help="keys", secret=True)
    key_file: Path | None = option(None, help="file of keys")
    renamed: str = option("x", help="another name outside", name="outside")

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"--count must not be negative, not {self.count}")


def kettle(
    argv: Sequence[str] = (), environ: Mapping[str, str] | None = None, file: Path | None = None
) -> KettleConfig:
    more = ["--config", str(file)] if file else []
    return parse(KettleConfig, "encode", [*argv, *more], environ or {})


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "epd.toml"


def test_every_type_from_the_command_line() -> None:
    line = (
        "--model m --listen :7 --room-bytes 2MiB --limit 5 --mode fast --servers a:1 b:2 --no-warm --seconds 2 "
        "--count 4 --key k --key-file /k --outside y --servers c:3"
    )
    config = kettle(line.split())
    assert config == KettleConfig(
        model="m",
        listen=":7",
        room_bytes=2 << 20,
        limit=5,
        mode="fast",
        servers=("a:1", "b:2", "c:3"),
        warm=False,
        seconds=2.0,
        count=4,
        key=("k",),
        key_file=Path("/k"),
        renamed="y",
    )


def test_every_type_from_the_environment() -> None:
    environ = {
        "EPD_ENCODE_MODEL": "m",
        "EPD_ENCODE_ROOM_BYTES": "2MiB",
        "EPD_ENCODE_SERVERS": "a:1, b:2 c:3",
        "EPD_ENCODE_WARM": "false",
        "EPD_ENCODE_OUTSIDE": "y",
        "EPD_ENCODE_LIMIT": "",  # not given
        "EPD_ROUTER_PORT": "another role's",
        "HOME": "/",
    }
    assert kettle(environ=environ) == KettleConfig(
        model="m", room_bytes=2 << 20, servers=("a:1", "b:2", "c:3"), warm=False, renamed="y"
    )


def test_every_type_from_the_file(toml: Path) -> None:
    toml.write_text(
        """
        model = "m"
        room-bytes = "2MiB"
        limit = 77
        servers = ["a:1", "b:2"]
        warm = false
        seconds = 2
        count = 4
        [encode]
        key_file = "/k"
        [router]
        anything = "is the router's to check"
        """
    )
    assert kettle(file=toml) == KettleConfig(
        config=toml,
        model="m",
        room_bytes=2 << 20,
        limit=77,
        servers=("a:1", "b:2"),
        warm=False,
        seconds=2.0,
        count=4,
        key_file=Path("/k"),
    )


def test_command_line_over_environment_over_table_over_top_level_over_default(toml: Path) -> None:
    toml.write_text(
        'model = "top"\ncount = 1\nseconds = 1\noutside = "top"\n[encode]\ncount = 2\nseconds = 2\nmodel = "table"'
    )
    environ = {"EPD_ENCODE_SECONDS": "3", "EPD_ENCODE_MODEL": "environment"}
    config = kettle(["--model", "line"], environ, toml)
    assert (config.model, config.seconds, config.count, config.renamed) == ("line", 3.0, 2, "top")
    assert config.mode == "slow"


def test_the_file_can_be_named_by_the_environment(toml: Path) -> None:
    toml.write_text('model = "from the file"')
    assert kettle(environ={"EPD_ENCODE_CONFIG": str(toml)}).model == "from the file"


def test_lists_of_a_stronger_source_replace_those_of_a_weaker() -> None:
    config = kettle(["--model", "m", "--servers", "c:3"], {"EPD_ENCODE_SERVERS": "a:1,b:2"})
    assert config.servers == ("c:3",)


@pytest.mark.parametrize(
    ("argv", "environ", "file", "message"),
    [
        (["--modell", "m"], {}, "", r"unknown option --modell; did you mean --model\?"),
        (["--mod", "m"], {}, "", r"unknown option --mod"),  # no abbreviations: they change meaning with new options
        (["m"], {}, "", "unexpected argument 'm'"),
        ([], {"EPD_ENCODE_MODELL": "m"}, "", "EPD_ENCODE_MODELL; did you mean EPD_ENCODE_MODEL?"),
        ([], {}, 'modell = "m"', r"epd.toml: unknown key 'modell'; did you mean model\?"),
        ([], {}, '[encode]\nmodell = "m"', r"epd.toml: unknown key 'modell'; did you mean model\?"),
        ([], {}, '[encoder]\nmodel = "m"', r"unknown table \[encoder\]; did you mean encode\?"),
        ([], {}, 'config = "other.toml"', "unknown key 'config'"),
        ([], {}, "model = ", "is not a TOML file"),
        ([], {}, "", "--model is required .or EPD_ENCODE_MODEL"),
        (["--model"], {}, "", "--model"),
        (["--listen", "nowhere"], {}, "", "--listen: not a HOST:PORT address: 'nowhere'"),
        (["--servers", "a:1", "b"], {}, "", "--servers: not a HOST:PORT address: 'b'"),
        (["--mode", "medium"], {}, "", "--mode: 'medium' is not one of slow, fast"),
        ([], {"EPD_ENCODE_COUNT": "many"}, "", "environment variable EPD_ENCODE_COUNT: 'many' is not a whole number"),
        ([], {}, 'seconds = "soon"', "epd.toml: seconds: 'soon' is not a number"),
        ([], {}, "count = [1, 2]", "epd.toml: count: takes one value, not a list"),
        ([], {}, "count = 1.5", "'1.5' is not a whole number"),
        (["--model", "m", "--count", "-1"], {}, "", "--count must not be negative, not -1"),
    ],
)
def test_errors_name_the_option_and_where_it_came_from(
    argv: list[str], environ: dict[str, str], file: str, message: str, toml: Path
) -> None:
    if file:
        toml.write_text(file)
    with pytest.raises(ConfigError, match=message):
        kettle(argv, environ, toml if file else None)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"can't read /nowhere.toml: No such file"):
        kettle(file=Path("/nowhere.toml"))


def test_help_shows_each_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        kettle(["--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Boils water." in shown
    assert "Not for the help" not in shown
    assert "--model TEXT which kettle (required)" in shown
    assert "--room-bytes SIZE how much, at most 100% (default: 1GiB)" in shown
    assert "--mode {slow,fast} how (default: slow)" in shown
    assert "--warm, --no-warm keep warm (default: true)" in shown
    assert "--servers HOST:PORT [HOST:PORT ...] others" in shown
    assert "EPD_ENCODE_LOG_LEVEL" in shown


def test_a_variable_of_no_role_is_an_error() -> None:
    with pytest.raises(ConfigError, match="EPD_ENCDOE_MODEL is of no role"):
        kettle(["--model", "m"], {"EPD_ENCDOE_MODEL": "m"})
    kettle(["--model", "m"], {"EPD_ROUTER_PORT": "1", "EPD_LIFELINE_FD": "3"})


def test_secrets_appear_nowhere() -> None:
    config = kettle(["--model", "m", "--key", "hunter2"])
    assert "hunter2" not in describe(config) + repr(config)
    assert "key=(hidden)" in describe(config)
    assert "key=" not in describe(kettle(["--model", "m"]))


def test_description_reads_as_the_user_wrote_it() -> None:
    shown = describe(kettle(["--model", "m", "--room-bytes", "3GiB", "--servers", "a:1", "b:2", "--outside", "y"]))
    assert "room-bytes=3GiB" in shown
    assert "servers=a:1,b:2" in shown
    assert "outside=y" in shown
    assert "count" not in shown, "what is as by default goes without saying"


def test_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        kettle(["--model", "m"]).count = 5  # type: ignore[misc]


def test_a_table_is_handed_on(toml: Path, tmp_path: Path) -> None:
    toml.write_text('host = "h"\n[encode]\nmodel = "m"\nservers = ["a:1", "b:2"]\nwarm = false\nroom_bytes = "2MiB"')
    written = tmp_path / "encode.toml"
    write_table(written, "encode", read_table(toml, "encode"))
    handed_on = kettle(file=written)
    assert handed_on == KettleConfig(config=written, model="m", servers=("a:1", "b:2"), warm=False, room_bytes=2 << 20)
    assert read_table(toml, "language") == {}


def test_any_text_survives_being_handed_on_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "private.toml"
    texts = ["a,b c", "#no comment", "\"'\\", "tab\tline\nend\x7f\0", "ключ", "[a]"]
    write_table(file, "router", {"api-key": texts})
    assert read_table(file, "router") == {"api-key": texts}
    assert file.stat().st_mode & 0o777 == 0o600
