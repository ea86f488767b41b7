"""What the documents name exists: options, files, variables."""

import re
from pathlib import Path

import pytest

from common.options import options_of
from deploy.programs import FAKES, PROGRAMS
from deploy.tools import TOOLS

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    *("README.md", "SECURITY.md"),
    *("docs/architecture.md", "docs/errors-and-limits.md", "docs/api.md", "docs/metrics.md", "docs/logs-and-traces.md"),
    "docs/operations.md",
    "docs/kubernetes.md",
    "docs/examples.md",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_are_named_exist(document: str) -> None:
    programs = (*PROGRAMS.values(), *FAKES.values())
    known = {f"--{option.key}" for program in programs for option in options_of(program.config_class())}
    known |= {flag for tool in TOOLS.values() for flag in re.findall(r"--[a-z-]+", tool.parser().format_help())}
    known |= {"--fake", "--help"}
    ours = re.sub(r"^(kubectl|docker|kind|iptables) .*$", "", (ROOT / document).read_text(), flags=re.M)
    ours = re.sub(r"`(kubectl|docker) [^`]*`", "", ours)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours))
    assert named <= known


def test_each_option_of_a_tool_is_explained_where_its_output_is() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for name, tool in TOOLS.items():
        _, _, section = text.partition(f"## epd {name}\n")
        section = section.partition("\n## ")[0]
        for flag in re.findall(r"^  (--[a-z-]+)", tool.parser().format_help(), flags=re.M):
            assert f"`{flag}" in section, f"epd {name} {flag}"


def test_each_row_of_the_option_table_names_roles_that_have_the_options() -> None:
    keys = {role: {option.key for option in options_of(program.config_class())} for role, program in PROGRAMS.items()}
    rows = re.findall(r"^\| (`--.*?) \| ([a-z, ]+) \|", (ROOT / "README.md").read_text(), flags=re.M)
    assert len(rows) > 10
    for options, roles in rows:
        named = set(re.findall(r"--([a-z-]+)", options))
        whose = PROGRAMS if roles == "all" else roles.split(", ")
        assert named <= set().union(*(keys[role] for role in whose)), options
        for role in whose:
            assert named & keys[role], f"{options}: {role} has none of them"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    folder = (ROOT / document).parent
    for path in re.findall(r"`((?:common|router|encode_server|language_server|deploy|proto)/[\w./*-]+)`", text):
        assert list(ROOT.glob(path)), path
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (folder / link).exists(), link


def test_variables_that_are_named_are_those_of_options() -> None:
    known = {
        option.variable(role) for role, program in PROGRAMS.items() for option in options_of(program.config_class())
    }
    named = set(re.findall(r"EPD_[A-Z_]+[A-Z]", (ROOT / "README.md").read_text()))
    assert named
    of_compose = {
        name
        for file in (ROOT / "deploy").glob("*compose.yaml")
        for name in re.findall(r"\$\{(EPD_\w+)", file.read_text())
    }
    assert named <= known | of_compose
