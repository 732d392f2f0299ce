"""What is deployed: manifests that parse, commands and options that exist, paths that are there."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml
from conftest import ROOT

from extractor.batch_cli import app

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
BATCH = typer.main.get_command(app)


def commands(text: str) -> list[list[str]]:
    """Words behind `shelfwise batch`, of every command that stands in a text."""
    return [shlex.split(line) for line in re.findall(r"shelfwise batch (.+)", text)]


def check(words: list[str]) -> None:
    command = BATCH.commands[words[0]]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, words
    command.make_context(words[0], words[1:])


def test_there_are_manifests():
    assert MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_runs_what_there_is(path):
    for document in yaml.safe_load_all(path.read_text()):
        assert document["apiVersion"] == "ray.io/v1" and document["kind"] == "RayJob"
        spec = document["spec"]
        (words,) = commands(spec["entrypoint"])
        check(words)
        given = dict(pairwise(words))
        cluster = spec["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        pods = [group["template"]["spec"] for group in groups]
        mounted = {m["mountPath"] for pod in pods for c in pod["containers"] for m in c["volumeMounts"]}
        assert all(any(word.startswith(f"{at}/") for at in mounted) for word in words if word.startswith("/"))
        for pod in pods:
            names = {volume["name"] for volume in pod["volumes"]}
            assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} <= names
        (group,) = cluster["workerGroupSpecs"]
        (worker,) = group["template"]["spec"]["containers"]
        # A pod holds an actor, and there may be as many of these as of those.
        asked = worker["resources"]["requests"]
        assert (asked["cpu"], asked["nvidia.com/gpu"]) == (given["--cpus"], given["--gpus"])
        assert group["maxReplicas"] == int(given["--engines"].rpartition(":")[2]) >= group["minReplicas"]


@pytest.mark.parametrize("page", sorted(DEPLOY.glob("*.md")), ids=lambda path: path.name)
def test_a_page_names_what_there_is(page):
    text = page.read_text()
    for words in commands(text):
        if words[0] in BATCH.commands:
            check(words)
    for named in re.findall(r"\b(?:deploy|eval|extractor)/[\w.-]+\.\w+", text):
        assert (ROOT / named).is_file(), named
    for module in re.findall(r"python -m (eval\.\w+)", text):
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()


def test_the_replicas_of_the_page_are_what_its_formula_gives():
    rows = re.findall(
        r"^\| (?:one|\d).*?\| ([\d.]+) \| .*? \| ([\d,]+) \| ([\d,]+) \|$", (DEPLOY / "sizing.md").read_text(), re.M
    )
    assert len(rows) >= 2
    for rate, replicas, hours in rows:
        needed = -(-100e6 // (float(rate) * 8 * 3600 * 0.95 * 0.9))
        assert (int(replicas.replace(",", "")), int(hours.replace(",", ""))) == (needed, 8 * needed)
