"""A Docker engine with Compose v2: the one that this machine has, or else one made for the occasion.

One that runs is used, with Compose and buildx from here if it lacks them. One that is there and does not answer is left
alone: two engines on a machine share its packet filter and its bridge.

The one made here is private: a daemon of its own on a socket of its own, ended with its containers and networks, and
the machine's packet filter restored. It needs root and Debian, whose packages are all that it is made of:

* the daemon, installed like any package;
* Compose v2 and buildx, which Debian has from release 13 on: unpacked aside and not installed;
* the image that our own stand on: pulled if there is a registry, and else made by debootstrap.

What takes long is kept in a folder for the next time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BASE_IMAGE = "python:3.11-slim-bookworm"
CACHE = Path("/var/cache/epd-compose")

_RELEASE = "trixie"  # of Debian, that has the plugins
_PLUGINS = ("docker-compose", "docker-buildx")
_START_S = 60.0
_OTHER_ENGINES = (Path("/var/run/docker.sock"), Path("/sys/class/net/docker0"))


class NoEngineError(Exception):
    """This machine has none, and none can be made on it; the message says why."""


@contextmanager
def engine() -> Iterator[dict[str, str]]:
    """Environment variables for `docker`.

    Raises:
        NoEngineError: there is none.
        subprocess.CalledProcessError: it can't be made, say because packages can't be had.
    """
    if _works({}):
        yield {}
        return
    if why := _obstacle():
        raise NoEngineError(why)
    CACHE.mkdir(parents=True, exist_ok=True)
    variables = {"DOCKER_CONFIG": str(_plugins())}
    if _works(variables):
        yield variables
        return
    if traces := [trace for trace in _OTHER_ENGINES if trace.exists()]:
        raise NoEngineError(f"a Docker engine was here and does not answer: {traces[0]} exists")
    _install("docker.io", "iptables", "debootstrap")
    if _works(variables):  # systemd has started it
        yield variables
        return
    with tempfile.TemporaryDirectory(prefix="epd-docker-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        variables["DOCKER_HOST"] = f"unix://{folder / 'socket'}"
        with _daemon(folder, variables):
            _base_image(variables)
            yield variables


def _obstacle() -> str:
    """Why no engine can be made here; "" if one can."""
    if os.geteuid() != 0:
        return "there is no Docker engine with Compose v2, and only root can make one"
    if shutil.which("apt-get") is None:
        return "there is no Docker engine with Compose v2, and one can be made of Debian's packages only"
    return ""


def _works(variables: dict[str, str]) -> bool:
    return shutil.which("docker") is not None and all(
        _run(["docker", *arguments], variables, check=False, quiet=True) == 0
        for arguments in (("version",), ("compose", "version"), ("buildx", "version"))
    )


def _install(*packages: str) -> None:
    missing = [package for package in packages if _run(["dpkg-query", "-s", package], check=False, quiet=True) != 0]
    if missing:
        print(f"== installing {', '.join(missing)}", flush=True)
        quietly = {"DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "update", "-qq"], quietly)
        # nothing that is there gives way, say the packages of Docker's own repository
        _run(["apt-get", "install", "-qq", "--no-remove", "--no-install-recommends", *missing], quietly, quiet=True)


def unpack(folder: Path, *packages: str, release: str | None = None) -> None:
    """Debian packages into `folder`, without installing them; `release`: another one than this machine's."""
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        options: list[str] = []
        if release is not None:
            (aside / "lists" / "partial").mkdir(parents=True)
            (aside / "sources.list").write_text(
                f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_mirror()} {release} main\n"
            )
            settings = {
                "Dir::Etc::SourceList": aside / "sources.list",
                "Dir::Etc::SourceParts": "-",
                "Dir::State::Lists": aside / "lists",
                "APT::Sandbox::User": "root",
            }
            options = [f"--option={key}={value}" for key, value in settings.items()]
            _run(["apt-get", *options, "update", "-qq"], quiet=True)
        _run(["apt-get", *options, "download", "-qq", *packages], cwd=aside, quiet=True)
        folder.mkdir(parents=True, exist_ok=True)
        for file in aside.glob("*.deb"):
            _run(["dpkg", "-x", str(file), str(folder)])


def _plugins() -> Path:
    """A folder for DOCKER_CONFIG."""
    folder = CACHE / "docker-config"
    if not all((folder / "cli-plugins" / plugin).exists() for plugin in _PLUGINS):
        print("== unpacking Compose and buildx", flush=True)
        unpack(CACHE / "plugins", *_PLUGINS, release=_RELEASE)
        shutil.copytree(
            CACHE / "plugins" / "usr/libexec/docker/cli-plugins", folder / "cli-plugins", dirs_exist_ok=True
        )
    return folder


@contextmanager
def _daemon(folder: Path, variables: dict[str, str]) -> Iterator[None]:
    filter_before = subprocess.run(["iptables-save"], check=True, stdout=subprocess.PIPE).stdout
    command = ["dockerd", "--host", variables["DOCKER_HOST"], "--storage-driver", "overlay2"]
    for option, name in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")):
        command += [f"--{option}", str(folder / name)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            end = time.monotonic() + _START_S
            while not _works(variables):
                if daemon.poll() is not None or time.monotonic() > end:
                    raise NoEngineError(f"dockerd does not start: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
            try:
                yield
            finally:
                _remove_containers(variables)
        finally:
            _end(daemon)
            subprocess.run(["iptables-restore"], input=filter_before, check=True)
            _run(["ip", "link", "delete", "docker0"], check=False, quiet=True)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(_START_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _remove_containers(variables: dict[str, str]) -> None:
    listed = subprocess.run(["docker", "ps", "-aq"], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    if containers := listed.stdout.split():
        _run(["docker", "rm", "--force", *containers], variables, check=False, quiet=True)
    _run(["docker", "network", "prune", "--force"], variables, check=False, quiet=True)


def _base_image(variables: dict[str, str]) -> None:
    if _run(["docker", "pull", "--quiet", BASE_IMAGE], variables, check=False, quiet=True) == 0:
        return
    archive = CACHE / "base.tar"
    if not archive.exists():
        print(f"== no registry: making a stand-in for {BASE_IMAGE} (a minute)", flush=True)
        with tempfile.TemporaryDirectory() as name:
            _make_base(Path(name) / "root", Path(name) / "base.tar")
            shutil.move(Path(name) / "base.tar", archive)
    changes = ("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8", 'CMD ["python"]')
    options = [f"--change={change}" for change in changes]
    _run(["docker", "import", *options, str(archive), BASE_IMAGE], variables, quiet=True)


def _make_base(root: Path, archive: Path) -> None:
    """Debian with Python and pip, that trusts whom this machine trusts and finds packages where it does."""
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    _run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), _mirror()], quiet=True)
    (root / "usr/bin/python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    trusted = "etc/ssl/certs/ca-certificates.crt"
    if (Path("/") / trusted).exists():
        shutil.copy(Path("/") / trusted, root / trusted)
    lines = [f"[global]\ncert = /{trusted}"]
    if (wheels := _wheels()) is not None:
        shutil.copytree(wheels, root / wheels.relative_to("/"))
        lines.append(f"find-links = {wheels}")
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")
    for litter in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / litter, ignore_errors=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    _run(["tar", "-C", str(root), "-cf", str(archive), "."])


def _wheels() -> Path | None:
    """A folder of wheels that this machine's pip looks into, for builds of torch that no index has."""
    found = subprocess.run(
        ["pip", "config", "get", "global.find-links"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    folder = Path(found.stdout.decode().strip() or "/nowhere")
    return folder if folder.is_absolute() and folder.is_dir() else None


def _mirror() -> str:
    """Where this machine's Debian packages come from."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=True,
        stdout=subprocess.PIPE,
    )
    return targets.stdout.decode().split()[0]


def _run(
    command: Sequence[str],
    variables: dict[str, str] | None = None,
    *,
    cwd: Path | None = None,
    check: bool = True,
    quiet: bool = False,
) -> int:
    """The exit status. Raises subprocess.CalledProcessError, with `check`; what was said is then printed."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if check and ended.returncode != 0:
        print((ended.stdout or b"").decode(errors="replace")[-3000:], flush=True)
        ended.check_returncode()
    return ended.returncode
