"""What `epd` can run: for each role its configuration and its `async serve(config) -> int`, by name.

By name, because roles are imported when they are run and not before: the router's machine has no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from common.config import CommonOptions, ConfigError


@dataclass(frozen=True, kw_only=True)
class Program:
    summary: str
    config: str  # module:class
    serve: str  # module that has `serve`
    extra: str | None = None  # of this package
    needs: tuple[str, ...] = ()  # modules that the extra brings

    def config_class(self) -> type[CommonOptions]:
        module, _, name = self.config.partition(":")
        found: type[CommonOptions] = getattr(importlib.import_module(module), name)
        return found

    def serve_function(self) -> Callable[[Any], Coroutine[Any, Any, int]]:
        """Raises ConfigError if the extra is not installed, before anything of it is imported."""
        self.check_installed()
        found: Callable[[Any], Coroutine[Any, Any, int]] = importlib.import_module(self.serve).serve
        return found

    def check_installed(self) -> None:
        missing = [name for name in self.needs if not _is_installed(name)]
        if missing:
            raise ConfigError(
                f"{self.summary.partition(':')[0]} needs {', '.join(missing)}: pip install 'epd-serve[{self.extra}]'"
            )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # something on the import path refuses it
        return False


_TENSORS = ("torch", "numpy", "safetensors", "huggingface_hub")

PROGRAMS = {
    "serve": Program(
        summary="everything on this machine: encode and language servers, and a router in front",
        config="deploy.serve_config:ServeConfig",
        serve="deploy.local",
    ),
    "encode": Program(
        summary="an encode server: images and videos in, embeddings out",
        config="encode_server.config:EncodeConfig",
        serve="encode_server.service",
        extra="encode",
        needs=(*_TENSORS, "PIL", "av"),
    ),
    "language": Program(
        summary="a language server: token ids and embeddings in, token ids out",
        config="language_server.config:LanguageConfig",
        serve="language_server.service",
        extra="language",
        needs=_TENSORS,
    ),
    "router": Program(
        summary="a router: OpenAI-style HTTP in, in front of any number of both servers",
        config="router.config:RouterConfig",
        serve="router.app",
    ),
}

# The same wire without weights and without torch, to try out a deployment.
FAKES = {
    "encode": Program(
        summary="a fake encode server: made-up embeddings",
        config="encode_server.fake:FakeEncodeConfig",
        serve="encode_server.fake",
    ),
    "language": Program(
        summary="a fake language server: answers by script",
        config="language_server.fake:FakeLanguageConfig",
        serve="language_server.fake",
    ),
}


def demo_folder() -> Path:
    """Where the small checkpoint (`model`) and the sample images (`images`) that come with this package lie."""
    return Path(str(resources.files("deploy"))) / "demo"
