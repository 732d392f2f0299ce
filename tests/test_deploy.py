"""What is deployed: manifests that parse, commands and options that exist, paths that are there."""

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml
from conftest import ROOT
from serving import serving

from extractor.cli import app
from extractor.engines.scripted import ScriptedEngine

DEPLOY = ROOT / "deploy"
MANIFESTS = [DEPLOY / "batch-job.yaml"]
PAGES = sorted(DEPLOY.glob("*.md"))
SHELFWISE = typer.main.get_command(app)
PINNED = re.compile(r"[a-z0-9][\w./-]*:v?\d+(\.\d+)+(-[\w-]+)?")


def commands(text: str) -> list[list[str]]:
    """Words behind `shelfwise`, of every command that stands in a text."""
    lines = re.findall(r"shelfwise ((?:batch|serve|keys|feedback) [^`|>\n]+)", text)
    return [shlex.split(line, comments=True) for line in lines if "…" not in line]


def check_command(words: list[str]) -> dict[str, object]:
    """What the command line makes of them; fails for a command or an option that there is not."""
    command = SHELFWISE
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, words
    return command.make_context(command.name, list(words)).params


@cache
def routes() -> set[str]:
    with serving(ScriptedEngine()) as running:
        return set(running.http.get("/openapi.json").json()["paths"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_runs_what_there_is(path):
    for document in yaml.safe_load_all(path.read_text()):
        assert document["apiVersion"] == "ray.io/v1" and document["kind"] == "RayJob"
        spec = document["spec"]
        (words,) = commands(spec["entrypoint"])
        check_command(words)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_names_what_there_is(page):
    text = page.read_text()
    for words in commands(text):
        check_command(words)
    for named in re.findall(r"\b(?:deploy|eval|extractor)/[\w.-]+\.\w+", text):
        assert (ROOT / named).is_file(), named
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (DEPLOY / link).exists(), link
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
