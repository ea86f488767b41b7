from dataclasses import replace

import pytest

from common.config import ROLES, CommonOptions, ConfigError
from common.options import options_of
from deploy.local import PASSED_ON
from deploy.programs import FAKES, PROGRAMS, Program, demo_folder
from deploy.serve_config import ServeConfig


def test_there_is_a_program_for_each_role() -> None:
    assert tuple(PROGRAMS) == ROLES


@pytest.mark.parametrize("program", [*PROGRAMS.values(), *FAKES.values()], ids=lambda program: program.config)
def test_configurations_are_found_and_have_the_common_options(program: Program) -> None:
    cls = program.config_class()
    assert issubclass(cls, CommonOptions)


@pytest.mark.parametrize("role", PASSED_ON)
def test_what_serve_passes_on_is_known_to_the_role(role: str) -> None:
    own = {option.key: option.is_list for option in options_of(ServeConfig)}
    theirs = {option.key: option.is_list for option in options_of(PROGRAMS[role].config_class())}
    for name in PASSED_ON[role]:
        key = name.replace("_", "-")
        assert own[key] == theirs[key]


def test_every_option_of_serve_reaches_somebody() -> None:
    passed_on = {name for names in PASSED_ON.values() for name in names}
    # these serve itself looks at
    own = {
        "fake",
        "colocated",
        "encoders",
        "languages",
        "device",
        "encode_devices",
        "language_devices",
        "api_key",
        "served_model_name",
    }
    common = {option.field for option in options_of(CommonOptions)}
    assert {option.field for option in options_of(ServeConfig)} == passed_on | own | common


def test_a_missing_extra_is_named_before_anything_is_imported() -> None:
    program = replace(PROGRAMS["encode"], needs=("json", "no_such_module", "nor_this"), serve="no_such_module")
    with pytest.raises(ConfigError, match=r"an encode server needs no_such_module, nor_this: .*'epd-serve\[encode\]'"):
        program.serve_function()


def test_the_demo_lies_in_the_package() -> None:
    assert (demo_folder() / "model" / "config.json").is_file()
    assert list((demo_folder() / "images").iterdir())
