"""What deploy/ says fits together and fits the streamer; test_streamer_replicas runs nginx.conf."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment_harness import REPOSITORY

from streamer import __version__
from streamer.application import PUBLIC_PATHS
from streamer.cli import build_parser, check_access, parse_limits, parse_sources
from streamer.protocol import PATH

DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
"""With its long lines in one piece."""
IMPORTED_WITH = {"botocore": "s3fs"}
"""Packages that come with one that is named."""
KINDS = ("Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler")


def instruction(name: str) -> str:
    """The only line of the Dockerfile that begins so, without that word."""
    (found,) = re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)
    return str(found)


def entry_point() -> list[str]:
    """The arguments that every container has."""
    words: list[str] = json.loads(instruction("ENTRYPOINT"))
    assert words[:3] == ["python", "-m", "streamer"]
    return words[3:]


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """What kubernetes.yaml holds, by kind."""
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return dict(only)


def imported(folder: Path) -> set[str]:
    """Top-level names of everything that a package imports, inside functions too."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


class TestDockerfile:
    """The image holds what the streamer needs, and starts it."""

    def test_packages_are_those_that_the_streamer_imports(self) -> None:
        (listed,) = re.findall(r"--constraint constraints\.txt(.+)", DOCKERFILE)
        needed = imported(REPOSITORY / "streamer") - sys.stdlib_module_names - {"streamer"}
        assert {IMPORTED_WITH.get(name, name) for name in needed} == set(listed.split())
        constraints = (REPOSITORY / "constraints.txt").read_text().splitlines()
        assert set(listed.split()) <= {line.partition("==")[0] for line in constraints}

    def test_everything_that_is_copied_is_there_and_sent_to_the_builder(self) -> None:
        sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        for source, _ in (words.split() for words in re.findall(r"^COPY (.+)", DOCKERFILE, re.M)):
            assert (REPOSITORY / source).exists()
            assert f"!{source}" in sent

    def test_what_an_image_should_have(self) -> None:
        assert re.fullmatch(r"python:3\.\d+-slim", instruction("FROM"))
        assert int(instruction("USER")) > 0
        assert instruction("STOPSIGNAL") == "SIGTERM"
        assert instruction("EXPOSE") == str(build_parser().get_default("port"))
        (address,) = re.findall(r"'(http:.+?)'", instruction("HEALTHCHECK"))
        assert address == f"http://127.0.0.1:{instruction('EXPOSE')}{PUBLIC_PATHS[0]}"
        assert f"babygpt-streamer:{__version__} " in DOCKERFILE

    def test_it_begins_like_a_streamer(self) -> None:
        parser = build_parser()
        options = parser.parse_args([*entry_point(), "--source=a"])
        check_access(parser, options)
        assert str(options.cache_dir) == instruction("VOLUME")


class TestKubernetes:
    """The manifests name each other as they are called."""

    def test_the_arguments_are_the_streamers(self, container: dict[str, Any]) -> None:
        parser = build_parser()
        options = parser.parse_args([*entry_point(), *container["args"]])
        assert parse_sources(parser, options)
        limits = parse_limits(parser, options.limit)
        assert limits.connections_per_address == limits.connections  # a balancer is one address

    def test_everything_selects_the_pods(self, manifests: dict[str, Any]) -> None:
        assert tuple(manifests) == KINDS
        deployment = manifests["Deployment"]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
        assert deployment["selector"]["matchLabels"] == labels
        assert spread["labelSelector"]["matchLabels"] == labels
        assert manifests["Service"]["spec"]["selector"] == labels
        assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels

    def test_counts_fit(self, manifests: dict[str, Any]) -> None:
        autoscaler = manifests["HorizontalPodAutoscaler"]["spec"]
        deployment = manifests["Deployment"]
        assert autoscaler["scaleTargetRef"] == {
            "apiVersion": deployment["apiVersion"],
            "kind": "Deployment",
            "name": deployment["metadata"]["name"],
        }
        replicas = deployment["spec"]["replicas"]
        assert autoscaler["minReplicas"] == replicas == 3
        assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] < replicas

    def test_ports_and_probes(self, manifests: dict[str, Any], container: dict[str, Any]) -> None:
        (port,) = container["ports"]
        (served,) = manifests["Service"]["spec"]["ports"]
        assert str(port["containerPort"]) == instruction("EXPOSE")
        assert served["targetPort"] == port["name"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[name]["httpGet"]
            assert probe["path"] in PUBLIC_PATHS  # no token is sent
            assert probe["port"] == port["name"]
        words = (DEPLOY / "kubernetes.yaml").read_text().split()
        name = manifests["Service"]["metadata"]["name"]
        assert f"data.url=ws://{name}:{served['port']}{PATH}" in words

    def test_folders_are_mounted(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        options = build_parser().parse_args([*entry_point(), *container["args"]])
        assert mounts.keys() == volumes.keys()
        assert mounts["cache"] == str(options.cache_dir)
        assert mounts["tokens"] == str(options.token_file.parent)
        command = f"generic {volumes['tokens']['secret']['secretName']} --from-file=tokens"
        assert command in (DEPLOY / "kubernetes.yaml").read_text()
        assert options.token_file.name == "tokens"
        size = int(volumes["cache"]["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        assert options.cache_gb * 1e9 < size << 30

    def test_it_may_do_little(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        user = int(instruction("USER"))
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"].endswith(f"/babygpt-streamer:{__version__}")
