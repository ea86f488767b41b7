"""Options of `epd serve`. What is left out is left to the role that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import CommonOptions, Size, option

# Fakes hold no weights on no device: to take these options and ignore them would be a lie.
NOT_OF_FAKES = (
    *("revision", "device", "encode_devices", "language_devices"),
    *("max_num_seqs", "max_step_tokens", "kv_cache_bytes", "gpu_memory_fraction"),
)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(CommonOptions):
    """Runs encode servers, language servers and a router on this machine.

    Options of a single role that are not listed here reach it as EPD_<ROLE>_<OPTION> or in its table of the file.
    """

    model: str | None = option(None, help="checkpoint; required without --fake", metavar="DIR-or-hub-id")
    revision: str | None = option(None, help="branch, tag or commit on the hub", metavar="REVISION")
    fake: bool = option(False, help="servers that make their answers up: no weights, no torch")
    served_model_name: tuple[str, ...] = option((), help="names that requests may use (default: the model's base name)")
    host: str = option("127.0.0.1", help="HTTP: 0.0.0.0 opens it to other machines")
    port: int = option(8000, help="HTTP; 0 takes a free one, see --state-file")
    workers: int | None = option(None, help="processes of the router, which share the port")
    api_key: tuple[str, ...] = option((), help="keys that clients must present", secret=True)
    api_key_file: Path | None = option(None, help="file with one such key a line")
    encoders: int | None = option(None, help="encode servers (default: as many as --encode-devices, or 1)")
    languages: int | None = option(None, help="language servers (default: as many as --language-devices, or 1)")
    encode_devices: tuple[str, ...] = option((), help="device of each encode server, say cuda:0 cuda:1; or one for all")
    language_devices: tuple[str, ...] = option((), help="device of each language server; or one for all")
    colocated: bool = option(False, help="one of each in one process: no wire between them")
    device: str | None = option(None, help="device of the servers that the two options above don't place")
    dtype: Literal["auto", "bfloat16", "float32"] | None = option(None, help="precision")
    transport: Literal["zmq", "grpc", "auto"] | None = option(None, help="data plane")
    max_model_len: int | None = option(None, help="tokens of prompt and answer together")
    max_num_seqs: int | None = option(None, help="requests that a language server runs at a time")
    max_step_tokens: int | None = option(None, help="tokens of one step of a language server")
    kv_cache_bytes: Size | None = option(None, help="KV cache of a language server")
    gpu_memory_fraction: float | None = option(None, help="of the device's memory, for weights and KV cache together")
    encode_cache_bytes: Size | None = option(None, help="finished embeddings kept by an encode server")
    inbox_bytes: Size | None = option(None, help="embeddings on their way into a language server")

    def __post_init__(self) -> None:
        if self.model is None and not self.fake:
            raise ValueError("--model is required (or --fake)")
        if self.fake and self.colocated:
            raise ValueError("--fake makes no sense with --colocated: there is no wire")
        for name in NOT_OF_FAKES:
            if self.fake and getattr(self, name) not in (None, ()):
                raise ValueError(f"--{name.replace('_', '-')} makes no sense with --fake: fakes don't have it")
        for flag, count, listed, devices in (
            ("--encoders", self.encoders, "--encode-devices", self.encode_devices),
            ("--languages", self.languages, "--language-devices", self.language_devices),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{flag} must be at least 1, not {count}")
            if count is not None and len(devices) not in (0, 1, count):
                raise ValueError(f"{listed} lists {len(devices)} devices for {flag} {count}")

        if self.colocated:
            if self.transport is not None:
                raise ValueError("--transport makes no sense with --colocated: there is no wire")
            if len(self.encode_placement()) > 1 or len(self.language_placement()) > 1:
                raise ValueError("--colocated is one encode and one language server")

    def encode_placement(self) -> tuple[str | None, ...]:
        """The device of each encode server; None leaves the choice to it."""
        return self._placement(self.encoders, self.encode_devices)

    def language_placement(self) -> tuple[str | None, ...]:
        """The device of each language server; None leaves the choice to it."""
        return self._placement(self.languages, self.language_devices)

    def _placement(self, count: int | None, devices: tuple[str, ...]) -> tuple[str | None, ...]:
        if len(devices) > 1:
            return devices
        return (devices[0] if devices else self.device,) * (count or 1)
