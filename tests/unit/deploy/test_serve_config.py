import pytest

from common.config import ConfigError, parse
from deploy.serve_config import ServeConfig


def serve(line: str) -> ServeConfig:
    return parse(ServeConfig, "serve", line.split(), {})


@pytest.mark.parametrize(
    ("line", "encode", "language"),
    [
        ("", (None,), (None,)),
        ("--device cuda", ("cuda",), ("cuda",)),
        ("--encoders 2 --languages 3", (None,) * 2, (None,) * 3),
        ("--encode-devices cuda:0 cuda:1 --device cpu", ("cuda:0", "cuda:1"), ("cpu",)),
        ("--encoders 2 --encode-devices cuda:0 --language-devices cuda:1", ("cuda:0", "cuda:0"), ("cuda:1",)),
        ("--languages 2 --language-devices a b", (None,), ("a", "b")),
    ],
)
def test_devices_and_counts_give_a_placement(
    line: str, encode: tuple[str | None, ...], language: tuple[str | None, ...]
) -> None:
    config = serve(f"--model m {line}")
    assert config.encode_placement() == encode
    assert config.language_placement() == language


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--model is required"),
        ("--model m --encoders 0", "--encoders must be at least 1"),
        ("--model m --languages -1", "--languages must be at least 1"),
        ("--model m --encoders 3 --encode-devices a b", "--encode-devices lists 2 devices for --encoders 3"),
    ],
)
def test_what_can_not_be_placed_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve(line)


def test_fakes_need_no_model() -> None:
    assert serve("--fake").model is None


@pytest.mark.parametrize(
    "option",
    [
        "--revision x",
        "--device cpu",
        "--encode-devices cpu",
        "--language-devices cpu",
        "--max-num-seqs 4",
        "--max-step-tokens 64",
        "--kv-cache-bytes 1GiB",
        "--gpu-memory-fraction 0.5",
    ],
)
def test_what_fakes_do_not_have_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option.split()[0]} makes no sense with --fake"):
        serve(f"--fake {option}")
    assert not serve(f"--model m {option}").fake


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--fake", "--fake makes no sense with --colocated"),
        ("--model m --transport zmq", "--transport makes no sense with --colocated"),
        ("--model m --encoders 2", "one encode and one language server"),
        ("--model m --language-devices a b", "one encode and one language server"),
    ],
)
def test_colocated_is_one_of_each_without_a_wire(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve(f"--colocated {line}")
    assert serve("--colocated --model m --encode-devices a --language-devices b").colocated
