"""Adapters trained in the service, and promoted while it runs. A script stands in for the commands that train and compare."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from serving import OFFER, SHOES, problem, serving, values
from test_feedback import record

from extractor import AttributeSchema
from extractor.adapters import Registry
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineError
from extractor.feedback import Store
from extractor.keys import Keys
from extractor.quality import ENOUGH, LEAST, labelled, likeness, sides
from extractor.records import LabelledOffer
from extractor.service import commands
from extractor.service.training import folder_name

STANDIN = (sys.executable, str(Path(__file__).parent / "standin.py"))
WON = {"scores": {"unbeaten": []}}


def word(n):
    """Titles that differ in more than digits."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(n))


def decided(store, n, first=0, category="Shoes"):
    """So many labelled offers."""
    store.add(
        record(f"o{i}", f"Diesel boot {word(i)} {i}", category=category, Brand=("Diesel", 0.5), Color=None)
        for i in range(first, first + n)
    )
    store.decide_alike("ann", category, "Brand", ["Diesel"])


class Bench:
    """A service that can train, what its commands do, and what they were called with."""

    def __init__(self, running, root):
        self.running, self.root, self.http = running, root, running.http

    def stand(self, **said):
        (self.root / "standing").write_text(json.dumps(said))

    def calls(self):
        file = self.root / "calls"
        return rows(file) if file.exists() else []

    def train(self, category="Shoes"):
        return self.http.post("/v1/adapters/train", json={"category": category})

    def job(self, n=0):
        return self.http.get("/v1/adapters/jobs").json()["jobs"][n]

    def ended(self, state="finished"):
        self.running.until(lambda: self.job()["state"] not in ("waiting", "running"))
        assert self.job()["state"] == state, self.job()
        return self.job()

    def trained(self, **said):
        self.stand(**said)
        assert self.train().status_code == 202
        return self.ended()

    def promote(self, **asked):
        return self.http.post("/v1/adapters/promote", json={"reference": "shoes@1"} | asked)

    def adapter(self):
        found = self.running.extract(OFFER).json()["results"][0]
        return found["provenance"]["adapter"]


@contextmanager
def bench_at(folder, engine=None, n=ENOUGH, **more):
    root = folder / "adapters"
    root.mkdir(exist_ok=True)
    with closing(Database(folder / "store.sqlite")) as database:
        store = Store(database)
        if n:
            decided(store, n)
        engine = engine or ScriptedEngine()
        more |= {"folder": folder, "program": STANDIN}
        with serving(engine, store=store, registry=Registry(root), **more) as running:
            bench = Bench(running, root)
            if not (root / "standing").exists():
                bench.stand()
            yield bench


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(commands, "TICK", 0.02)


@pytest.fixture
def bench(tmp_path):
    with bench_at(tmp_path) as opened:
        yield opened


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1]
    except FileNotFoundError:
        return False


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def offer(identity, title):
    return LabelledOffer(id=identity, title=title, category="Shoes", attributes={})


def test_offers_are_held_out_for_good():
    offers = [offer(str(i), f"Boot {word(i)} EU {i}") for i in range(ENOUGH)]
    learned, held = sides(offers)
    assert len(learned) == len(held) == LEAST
    assert sides(list(reversed(offers)))[1] == list(reversed(held))
    more = [offer(f"m{i}", f"Sandal {word(i)}") for i in range(300)]
    again = sides(offers + more, *({likeness(o.title) for o in side} for side in (learned, held)))
    assert {o.id for o in learned} <= {o.id for o in again[0]} and {o.id for o in held} <= {o.id for o in again[1]}
    assert len(again[1]) == 72
    kin = [offer(str(i), f"boot, EU {i}" if i % 2 else f"Boot EU {i}!") for i in range(40)]
    assert [len(side) for side in sides(kin)] == [40, 0], "titles that are alike stay together"


@pytest.mark.parametrize("category", ["Tea/Green", "../../etc", "", None, "紅茶", "Shoes.", ".hidden", "x" * 300])
def test_a_category_is_no_path(category):
    name = folder_name(category)
    assert len({name, folder_name("Shoes"), folder_name("Tea Green")}) == 3
    assert Path(name).name == name and not name.startswith(".") and len(name) < 60


def test_an_adapter_is_trained_compared_and_promoted(bench):
    assert bench.http.get("/v1/adapters/jobs").json() == {"possible": True, "enough": 60, "serving": [], "jobs": []}
    assert bench.adapter() is None
    bench.stand(hold=True)
    begun = bench.train()
    assert begun.status_code == 202 and begun.json()["learned"] == begun.json()["held_out"] == 30
    bench.running.until(lambda: bench.job()["step"])
    assert {k: bench.job()[k] for k in ("state", "phase", "fraction")} == {
        "state": "running",
        "phase": "training",
        "fraction": 0.25,
    }
    problem(bench.train(), 409, "under-way")
    problem(bench.promote(), 404, "unknown-adapter")
    bench.stand(**WON)
    done = bench.ended()
    assert done["reference"] == "shoes@1" and done["unbeaten"] == [] and not done["serves"]
    assert done["scores"]["f1"] == 61.5 and done["scores"]["offers"] == 30
    assert [r["name"] for r in done["scores"]["rivals"]] == ["zero-shot", "few-shot"]
    first, second = bench.calls()
    assert first["words"] == ["finetune", "lora"] and second["words"] == ["adapters", "promote", "shoes@1"]
    assert first["nice"] >= commands.NICE and first["settings"]["SHELFWISE_ENGINE"] == "scripted"
    assert not {"SHELFWISE_ADAPTERS", "SHELFWISE_STORE"} & set(first["settings"])
    assert bench.adapter() is None, "it serves nobody until it is promoted"
    promoted = bench.promote()
    assert promoted.status_code == 200 and promoted.json()["serves"]
    assert bench.adapter() == "shoes@1" and bench.job()["serves"]
    assert bench.http.get("/v1/adapters").json()[0]["serves"] == ["Shoes"]
    (entry,) = Registry(bench.root).history
    assert entry["evidence"]["f1"] == 61.5 and entry["forced"] is None
    problem(bench.promote(), 409, "serves")
    back = bench.http.post("/v1/adapters/rollback", json={"category": "shoes"})
    assert back.status_code == 200 and back.json() == [] and bench.adapter() is None
    problem(bench.http.post("/v1/adapters/rollback", json={"category": "Shoes"}), 422, "input")
    said = [(e.what, e.about) for e in bench.running.service.journal.entries(20)]
    assert ("adapter promote", "shoes@1") in said and ("adapter rollback", "Shoes") in said


def test_what_is_learned_is_never_what_is_compared_on(bench):
    first = bench.trained(**WON)
    decided(bench.running.service.store, 100, first=ENOUGH)
    second = bench.trained(**WON)
    assert (first["learned"], first["held_out"], second["learned"], second["held_out"]) == (30, 30, 128, 32)
    assert second["reference"] == "shoes@2"
    place = bench.running.service.folder / "jobs"
    ids = lambda job, name: {r["id"] for r in rows(place / job["id"] / name)}  # noqa: E731
    assert ids(first, "train.jsonl") <= ids(second, "train.jsonl")
    assert ids(first, "held_out.jsonl") <= ids(second, "held_out.jsonl")
    assert {o.id for o in labelled(bench.running.service.store)} == ids(second, "train.jsonl") | ids(
        second, "held_out.jsonl"
    )


def test_an_adapter_that_does_not_win_takes_a_reason(bench):
    bench.trained()
    refused = problem(bench.promote(), 409, "not-better")
    assert "30 held-out offers" in refused["detail"] and "few-shot" in refused["detail"]
    problem(bench.promote(force=True), 422, "no-reason")
    assert bench.adapter() is None and Registry(bench.root).history == []
    assert bench.promote(force=True, reason="a trial").status_code == 200
    assert bench.adapter() == "shoes@1" and Registry(bench.root).history[0]["forced"] == "a trial"
    assert any(e.about == "shoes@1: a trial" for e in bench.running.service.journal.entries(5))


def test_what_was_promoted_since_has_to_be_beaten_too(bench):
    bench.trained(**WON)
    bench.trained(**WON)
    assert bench.promote().status_code == 200
    assert bench.job(0)["unbeaten"] == ["shoes@1"] and bench.job(1)["unbeaten"] == []
    assert "shoes@1" in problem(bench.promote(reference="shoes@2"), 409, "not-better")["detail"]


def test_too_few_labels_are_counted(tmp_path):
    with bench_at(tmp_path, n=40) as bench:
        assert "20 more labelled offers" in problem(bench.train(), 409, "enough")["detail"]
        assert "60 more" in problem(bench.train("Tea/Green"), 409, "enough")["detail"]
        problem(bench.train("Cars"), 422, "unknown-schema")
        assert bench.calls() == [] and list((tmp_path / "jobs").glob("*")) == []
    with serving(ScriptedEngine()) as running:
        refused = problem(running.http.post("/v1/adapters/train", json={"category": "Shoes"}), 409, "no-registry")
        assert "--adapters FOLDER" in refused["detail"]
        assert running.http.get("/v1/adapters/jobs").json()["possible"] is False
        problem(running.http.post("/v1/adapters/rollback", json={"category": "Shoes"}), 409, "no-registry")


def test_labels_are_those_of_the_schema(tmp_path):
    with bench_at(tmp_path, n=0) as bench:
        store = bench.running.service.store
        title = lambda i: f"Diesel boot {word(i)}"  # noqa: E731
        store.add(
            record(f"o{i}", title(i), category="shoes ", Brand=("Diesel", 0.5), Heel=("boot", 0.99)) for i in range(60)
        )
        store.decide_alike("ann", "shoes ", "Brand", ["Diesel"])
        bench.trained(**WON)
        found = [row for path in (tmp_path / "jobs").glob("*/*.jsonl") for row in rows(path)]
        assert len(found) == 60 and {r["category"] for r in found} == {"Shoes"}
        assert {tuple(r["attributes"]) for r in found} == {("Brand",)}


def test_cancelling_ends_the_command_and_it_can_go_on(bench):
    bench.stand(hold=True)
    identity = bench.train().json()["id"]
    bench.running.until(bench.calls)
    assert bench.http.post(f"/v1/adapters/jobs/{identity}/cancel").json()["state"] == "cancelled"
    bench.running.until(lambda: not alive(bench.calls()[0]["pid"]))
    problem(bench.http.post(f"/v1/adapters/jobs/{identity}/cancel"), 409, "state")
    bench.stand(**WON)
    assert bench.http.post(f"/v1/adapters/jobs/{identity}/resume").status_code == 200
    assert bench.ended()["reference"] == "shoes@1" and len(bench.calls()) == 3
    problem(bench.http.post(f"/v1/adapters/jobs/{identity}/resume"), 409, "state")
    problem(bench.http.post("/v1/adapters/jobs/nothing/cancel"), 404, "unknown-job")
    problem(bench.http.get(f"/v1/jobs/{identity}"), 404, "unknown-job")


def test_a_later_training_takes_the_place_of_one_that_was_cancelled(bench):
    bench.stand(hold=True)
    identity = bench.train().json()["id"]
    bench.http.post(f"/v1/adapters/jobs/{identity}/cancel")
    bench.trained(**WON)
    refused = problem(bench.http.post(f"/v1/adapters/jobs/{identity}/resume"), 409, "conflict")
    assert "a later adapter" in refused["detail"]


def test_a_failure_says_what_the_command_said(bench):
    bench.stand(fail="no room left")
    bench.train()
    failed = bench.ended("failed")
    assert failed["problem"] == "no room left (the job); once that is put right, resume the job"
    bench.stand(**WON)
    bench.http.post(f"/v1/adapters/jobs/{failed['id']}/resume")
    assert bench.ended()["problem"] is None


def test_a_command_that_is_killed_says_so(bench):
    bench.stand(hold=True)
    bench.train()
    bench.running.until(bench.calls)
    os.kill(bench.calls()[0]["pid"], 9)
    assert "killed (signal 9), perhaps for want of memory" in bench.ended("failed")["problem"]


def test_a_restart_goes_on_where_it_was(tmp_path):
    with bench_at(tmp_path) as bench:
        bench.stand(hold=True)
        bench.train()
        bench.running.until(bench.calls)
    first = bench.calls()[0]["pid"]
    assert not alive(first)
    with bench_at(tmp_path, n=0) as bench:
        assert bench.job()["state"] in ("waiting", "running")
        bench.stand(**WON)
        assert bench.ended()["reference"] == "shoes@1"
        assert [c["words"][0] for c in bench.calls()] == ["finetune", "finetune", "adapters"]


def killed(folder):
    """A service that is killed while its command runs."""
    with bench_at(folder) as bench:
        bench.stand(hold=True)
        bench.train()
        bench.running.until(bench.calls)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_command_that_outlives_its_service_is_ended_first(tmp_path):
    code = "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import test_training as t; t.killed(pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    with bench_at(tmp_path, n=0) as bench:
        before = bench.calls()[0]["pid"]
        bench.running.until(lambda: len(bench.calls()) == 2)
        assert not alive(before)
        bench.stand(**WON)
        assert bench.ended()["reference"] == "shoes@1"


def test_who_waits_while_the_engine_starts_again_is_answered(tmp_path):
    opening = []

    def engine():
        opening.append(time.monotonic())
        time.sleep(0.5 if len(opening) > 1 else 0)
        return ScriptedEngine(first_words)

    with bench_at(tmp_path, engine) as bench, ThreadPoolExecutor(8) as pool:
        bench.trained(**WON)
        stop, found = time.monotonic() + 1.5, []

        def ask():
            while time.monotonic() < stop:
                found.append(bench.running.extract(OFFER))
                time.sleep(0.01)

        asking = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.2)
        assert bench.promote().status_code == 200 and len(opening) == 2
        for one in asking:
            one.result()
        assert {r.status_code for r in found} == {200, 503}
        assert all(r.headers["retry-after"] for r in found if r.status_code == 503)
        answered = [r.json()["results"][0]["provenance"]["adapter"] for r in found if r.status_code == 200]
        assert set(answered) == {None, "shoes@1"} and answered[0] is None and answered[-1] == "shoes@1"
        assert bench.http.get("/readyz").status_code == 200


@pytest.mark.parametrize("error", [EngineError("it does not fit"), RuntimeError("of a library")])
def test_an_adapter_that_cannot_be_served_is_taken_back(tmp_path, error):
    refusing = []

    def script(request):
        if request.adapter and refusing:
            raise error
        return first_words(request)

    with bench_at(tmp_path, ScriptedEngine(script)) as bench:
        bench.trained(**WON)
        refusing.append(True)
        refused = problem(bench.promote(), 409, "not-opened")
        assert str(error) in refused["detail"] and "serves again" in refused["detail"]
        assert Registry(bench.root).history == [] and bench.adapter() is None and not bench.job()["serves"]
        refusing.clear()
        assert bench.promote().status_code == 200 and bench.adapter() == "shoes@1"


def test_an_adapter_of_another_schema_is_taken_back(bench):
    bench.trained(**WON)
    card = bench.root / "shoes" / "1" / "adapter.json"
    card.write_text(card.read_text().replace(SHOES.reference, "shoes@0000000000"))
    assert "trained for shoes@0000000000" in problem(bench.promote(), 409, "not-opened")["detail"]
    assert bench.adapter() is None and values(bench.running.extract(OFFER).json()["results"][0])["Brand"] == ["Velmora"]


def test_an_adapter_for_a_schema_that_was_saved_meanwhile_serves_it(bench):
    sized = AttributeSchema.from_names(["Brand", "Size"], "Shoes")
    body = {"schema": sized.written(), "from_version": 0}
    assert bench.http.put("/v1/schemas/Shoes", json=body).status_code == 200
    bench.trained(**WON)
    assert bench.promote().status_code == 200 and bench.adapter() == "shoes@1"
    assert set(values(bench.running.extract(OFFER).json()["results"][0])) == {"Brand", "Size"}


def test_reviewers_look_and_admins_decide(tmp_path):
    with closing(Database(tmp_path / "store.sqlite")) as database:
        keys = Keys(database)
        secrets = {role: keys.create(role, role, None, "test")[1] for role in ("extract", "review", "admin")}
        (tmp_path / "adapters").mkdir()
        with serving(ScriptedEngine(), keys, registry=Registry(tmp_path / "adapters")) as running:
            ask = lambda role, method, path, **body: running.http.request(  # noqa: E731
                method, path, headers={"Authorization": f"Bearer {secrets[role]}"}, **({"json": body} if body else {})
            )
            problem(ask("extract", "GET", "/v1/adapters/jobs"), 403, "role")
            assert ask("review", "GET", "/v1/adapters/jobs").status_code == 200
            for path, body in (
                ("train", {"category": "Shoes"}),
                ("promote", {"reference": "shoes@1"}),
                ("rollback", {"category": "Shoes"}),
                ("jobs/x/cancel", {}),
                ("jobs/x/resume", {}),
            ):
                problem(ask("review", "POST", f"/v1/adapters/{path}", **body), 403, "role")
            problem(ask("admin", "POST", "/v1/adapters/train", category="Shoes"), 409, "enough")
            problem(ask("admin", "POST", "/v1/adapters/promote", reference="../../x@1"), 404, "unknown-adapter")
