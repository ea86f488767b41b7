"""`--model`: a directory, or a model on a hub of which a server downloads only its role's part.

A checkpoint is split over files (shards); its index says which tensor is in which. What is downloaded lies in the
usual cache (`HF_HOME`), and `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean elsewhere.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from common.fingerprint import ROUTER_FILES, model_fingerprint, sampled_digest
from common.models.roles import Role, role_files

log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
_PARALLEL = 4  # downloads
_PARALLEL_DIGESTS = 16  # shards of other roles whose digest is read at a time: many small ranges each


class ModelNotFoundError(OSError):
    """There is no such model, or it can't be had now; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A checkpoint as far as it is on this machine."""

    directory: Path
    absent_shards: Mapping[str, bytes] = field(default_factory=dict)  # digests of other roles' shards, by name

    def fingerprint(self) -> bytes:
        """Of the whole model, 32 bytes (`common.fingerprint`)."""
        return model_fingerprint(self.directory, dict(self.absent_shards))


def resolve_model(
    model: str,
    revision: str | None,
    role: Role,
    progress: Callable[[str], None] = log.info,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> ModelFiles:
    """The checkpoint that `--model` and `--revision` name, downloaded if need be. Blocks; call it from a thread.

    Args:
        model: a directory, taken as it is, or a hub id ("Qwen/Qwen3-VL-30B-A3B-Instruct").
        revision: branch, tag or commit on the hub.
        role: whose tensors are needed; a shard without any of them is not downloaded.
        progress: gets a line for each long step.
        endpoint: of the hub, instead of `HF_ENDPOINT`.
        cache_dir: instead of the usual cache.

    Raises:
        ModelNotFoundError: no such directory, model, or revision; no access; or offline and not in the cache.
        ValueError: a revision was given for a directory.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise ValueError(f"--revision {revision} makes no sense with the directory {model}")
        if not (directory / "config.json").is_file():
            raise ModelNotFoundError(f"{model} is not a checkpoint: it has no config.json")
        return ModelFiles(directory=directory)
    hub = _Hub(model=model, revision=revision or "main", endpoint=endpoint, cache_dir=cache_dir)
    try:
        return _download(hub, role, progress)
    except HFValidationError:
        raise ModelNotFoundError(f"{model} is neither a directory nor a hub id") from None
    except GatedRepoError:
        raise ModelNotFoundError(
            f"{model} is gated: accept its terms on its page, then set HF_TOKEN to a token that may read it"
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"{model} is neither a directory here nor a model on the hub (a private one needs HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFoundError(f"{model} has no revision {revision!r}") from None
    except LocalEntryNotFoundError:
        raise ModelNotFoundError(
            f"{model} is not a directory here, not (wholly) in the download cache, and the hub can't be reached"
        ) from None
    except EntryNotFoundError as error:
        raise ModelNotFoundError(f"{model} on the hub is not a checkpoint of this family: {error}") from None
    except Exception as error:  # its versions use different HTTP libraries, each with errors of its own
        raise ModelNotFoundError(f"{model} can't be downloaded: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Hub:
    """One model on the hub, and where its files go."""

    model: str
    revision: str
    endpoint: str | None
    cache_dir: Path | None

    def at(self, commit: str) -> _Hub:
        return _Hub(model=self.model, revision=commit, endpoint=self.endpoint, cache_dir=self.cache_dir)

    def get(self, name: str) -> Path:
        return Path(
            huggingface_hub.hf_hub_download(
                self.model, name, revision=self.revision, endpoint=self.endpoint, cache_dir=self.cache_dir
            )
        )

    def get_optional(self, name: str) -> Path | None:
        """None when the model is known to have no such file, and not merely because the hub is out of reach."""
        try:
            return self.get(name)
        except LocalEntryNotFoundError:
            cached = huggingface_hub.try_to_load_from_cache(
                self.model, name, cache_dir=self.cache_dir, revision=self.revision
            )
            if cached is None:
                raise
            return None
        except EntryNotFoundError:
            return None

    def url(self, name: str) -> str:
        return huggingface_hub.hf_hub_url(self.model, name, revision=self.revision, endpoint=self.endpoint)


def _download(hub: _Hub, role: Role, progress: Callable[[str], None]) -> ModelFiles:
    directory = hub.get("config.json").parent
    # The first file has fixed the commit (the snapshot folder is named after it); a push in between can't mix two.
    hub = hub.at(directory.name)
    for name in ROUTER_FILES:
        hub.get_optional(name)
    index = hub.get_optional(INDEX)
    if index is None:
        progress(f"{hub.model}: model.safetensors, in one file for all roles")
        hub.get("model.safetensors")
        return ModelFiles(directory=directory)
    weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    wanted = role_files(weight_map, role)
    others = sorted(set(weight_map.values()) - set(wanted))
    progress(f"{hub.model}: {len(wanted)} of {len(wanted) + len(others)} shards hold weights of this role")
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for done, name in enumerate(pool.map(lambda shard: hub.get(shard).name, wanted), start=1):
            progress(f"{hub.model}: {name} is here ({done} of {len(wanted)})")
    return ModelFiles(directory=directory, absent_shards=_digests(hub, directory, others, progress))


def _digests(hub: _Hub, directory: Path, shards: Sequence[str], progress: Callable[[str], None]) -> dict[str, bytes]:
    """Digests of shards that are not downloaded, read from the hub once and then remembered beside the snapshot."""
    memory = directory.parent.parent / "epd" / f"{directory.name}.json"
    known: dict[str, str] = json.loads(memory.read_text()) if memory.is_file() else {}
    missing = [name for name in shards if name not in known and not (directory / name).is_file()]
    if missing:
        progress(f"{hub.model}: reading samples of {len(missing)} other shards, to tell this model from its fine-tunes")
        with ThreadPoolExecutor(_PARALLEL_DIGESTS) as pool:
            known |= zip(missing, pool.map(lambda name: _remote_digest(hub, name).hex(), missing), strict=True)
        memory.parent.mkdir(exist_ok=True)
        memory.write_text(json.dumps(known))
    return {name: bytes.fromhex(known[name]) for name in shards if name in known}


def _remote_digest(hub: _Hub, name: str) -> bytes:
    """`common.fingerprint.sampled_digest` of a shard on the hub, by range requests."""
    token = huggingface_hub.get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(headers=headers, follow_redirects=True, timeout=30.0) as client:

        def fetch(offset: int, length: int) -> httpx.Response:
            for attempt in range(3):
                answer = client.get(hub.url(name), headers={"Range": f"bytes={offset}-{offset + length - 1}"})
                if answer.status_code not in (429, 500, 502, 503, 504):
                    break
                time.sleep(2.0**attempt)
            answer.raise_for_status()
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                raise OSError(f"the hub ignores range requests for {name}")
            return answer

        size = int(fetch(0, 8).headers["content-range"].rpartition("/")[2])
        # A range that begins at the very end of the file is refused instead of empty.
        return sampled_digest(lambda at, length: fetch(at, length).content if at < size else b"", size, name)
