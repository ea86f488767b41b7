"""Manifests as rules look at them: objects, and the pods of our roles with the configuration that they start with."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from common.config import CommonOptions, parse
from deploy.programs import PROGRAMS

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
ROLES = ("router", "encode", "language")
POD_IP = "10.244.1.7"  # that the downward API would give

Object = dict[str, Any]

_UNDERSTOOD = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "labels", "images"}
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def as_written(folder: Path) -> list[Object]:
    """The objects of a kustomization that patches nothing, without kubectl, and without hashes in names.

    Raises:
        ValueError: the kustomization needs more than that.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if beyond := kustomization.keys() - _UNDERSTOOD:
        raise ValueError(f"{folder} needs kubectl: {', '.join(sorted(beyond))}")
    objects = []
    for resource in kustomization["resources"]:
        objects += [found for found in yaml.safe_load_all((folder / resource).read_text()) if found]
    for generator in kustomization.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in generator.get("files", [])}
        data |= dict(literal.split("=", 1) for literal in generator.get("literals", []))
        objects.append({"kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    tags = {image["name"]: image["newTag"] for image in kustomization.get("images", [])}
    for found in objects:
        if found["kind"] != "Namespace":
            found["metadata"]["namespace"] = kustomization["namespace"]
        if found["kind"] == "Deployment":
            for container in found["spec"]["template"]["spec"]["containers"]:
                container["image"] += f":{tags[container['image']]}"
    return objects


def rendered(folder: Path) -> str:
    """What `kubectl kustomize` makes of it. Raises subprocess.CalledProcessError."""
    command = ["kubectl", "kustomize", str(folder)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def quantity(text: str | int) -> int:
    """Bytes of "4Gi"."""
    match = re.fullmatch(r"(\d+)([KMG]i)?", str(text))
    assert match is not None, text
    return int(match[1]) * _UNITS[match[2] or ""]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The Deployment of a role."""

    role: str
    deployment: Object
    manifests: Manifests

    @property
    def labels(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.deployment["spec"]["template"]["metadata"]["labels"]
        return found

    @property
    def pod(self) -> Object:
        found: Object = self.deployment["spec"]["template"]["spec"]
        return found

    @property
    def container(self) -> Object:
        (found,) = self.pod["containers"]
        assert isinstance(found, dict)
        return found

    @property
    def port_names(self) -> Mapping[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    @cached_property
    def environ(self) -> Mapping[str, str]:
        """The environment of the container, without what the image brings."""
        values: dict[str, str] = {}
        for source in self.container.get("envFrom", []):
            values |= self.manifests.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in self.container.get("env", []):
            value = entry["value"] if "value" in entry else self._value_from(entry["valueFrom"])
            if value is not None:
                values[entry["name"]] = value
        return values

    def _value_from(self, source: Object) -> str | None:
        match source:
            case {"configMapKeyRef": {"name": name, "key": key, **rest}}:
                data: dict[str, str] = self.manifests.one("ConfigMap", name)["data"]
                return data.get(key) if rest.get("optional") else data[key]
            case {"fieldRef": {"fieldPath": "status.podIP"}}:
                return POD_IP
            case {"secretKeyRef": _}:
                return "a-secret"
        raise AssertionError(f"no idea what {source} would be")

    @property
    def argv(self) -> list[str]:
        """What the entry point is given."""
        environ = self.environ
        return [re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], word) for word in self.container["args"]]

    @cached_property
    def file(self) -> str:
        """The text of the TOML file that the role is told to read."""
        (path,) = [word.partition("=")[2] for word in self.argv if word.startswith("--config=")]
        (mount,) = [mount for mount in self.container["volumeMounts"] if path.startswith(mount["mountPath"] + "/")]
        (volume,) = [volume for volume in self.pod["volumes"] if volume["name"] == mount["name"]]
        data = self.manifests.one("ConfigMap", volume["configMap"]["name"])["data"]
        text: str = data[path.removeprefix(mount["mountPath"] + "/")]
        return text

    def config(self, image: Mapping[str, str]) -> CommonOptions:
        """The configuration that the role starts with.

        Args:
            image: the environment that the image brings.

        Raises:
            ConfigError: it would not start.
        """
        role, *argv = self.argv
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(self.file)
            file.flush()
            argv = [f"--config={file.name}" if word.startswith("--config=") else word for word in argv]
            return parse(PROGRAMS[role].config_class(), role, argv, {**image, **self.environ})


@dataclass(frozen=True)
class Manifests:
    objects: Sequence[Object]

    @classmethod
    def of(cls, text: str) -> Manifests:
        return cls([found for found in yaml.safe_load_all(text) if found])

    def all(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        (found,) = [found for found in self.all(kind) if found["metadata"]["name"] == name]
        return found

    def workload(self, role: str) -> Workload:
        return Workload(role=role, deployment=self.one("Deployment", f"epd-{role}"), manifests=self)

    @property
    def workloads(self) -> list[Workload]:
        return [self.workload(role) for role in ROLES]
