"""Adapters trained in the service: from what people decided to scores, cancelled, killed and gone on with."""

import os
import signal
import subprocess
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import pytest
import standin
from serving import problem, serving
from test_feedback import record
from workbench import WON, alive, bench_at, decided, rows, word

from extractor.adapters import Registry
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import StorageError
from extractor.quality import ENOUGH, LEAST, labelled, likeness, sides
from extractor.records import LabelledOffer
from extractor.service import commands
from extractor.service.training import folder_name


@pytest.fixture
def bench(tmp_path):
    with bench_at(tmp_path) as opened:
        yield opened


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


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_store_that_is_away_is_waited_for(bench, monkeypatch, state):
    training = bench.running.service.training
    move, away = training.journal.move, [3]

    def stumbling(identity, states, said=None, **news):
        if news.get("state") == state and away[0]:
            away[0] -= 1
            raise StorageError("connection refused")
        return move(identity, states, said, **news)

    monkeypatch.setattr(training.journal, "move", stumbling)
    training.pause = 0.01
    assert bench.trained(**WON)["reference"] == "shoes@1" and not away[0]
    assert [c["words"][0] for c in bench.calls()].count("finetune") == 1


def test_an_adapter_of_somebody_else_is_not_taken_for_the_own(bench):
    bench.stand(hold=True)
    identity = bench.train().json()["id"]
    bench.running.until(bench.calls)
    place = bench.running.service.folder / "jobs" / identity

    def foreign():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHELFWISE_TEMPLATE", "extract")
            standin.adapter(bench.root / "shoes", Namespace(data=place / "train.jsonl", schema=place / "schema.yaml"))

    foreign()
    bench.stand(hold="adapters")
    bench.running.until(lambda: bench.job()["reference"])
    foreign()
    bench.http.post(f"/v1/adapters/jobs/{identity}/cancel")
    bench.stand(**WON)
    bench.http.post(f"/v1/adapters/jobs/{identity}/resume")
    assert bench.ended()["reference"] == "shoes@2"
    assert bench.calls()[-1]["words"][-1] == "shoes@2"
    assert [c["words"][0] for c in bench.calls()].count("finetune") == 1, "it is not trained twice"


def test_a_training_goes_on_where_another_service_has_drained(tmp_path, monkeypatch):
    monkeypatch.setattr("extractor.service.training.PAUSE", 0.05)
    with ExitStack() as stack:
        with bench_at(tmp_path) as bench:
            bench.stand(hold=True)
            bench.train()
            bench.running.until(bench.calls)
            other = stack.enter_context(bench_at(tmp_path, n=0))
            other.running.until(lambda: other.running.service.training._running)
        other.stand(**WON)
        assert other.ended()["reference"] == "shoes@1"
