"""Which adapter serves a category, changed while the service runs."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from serving import OFFER, SHOES, begun, ended, problem, records, serving, table, values
from workbench import WON, bench_at

from extractor import AttributeSchema
from extractor.adapters import REGISTRY, Registry
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineError
from extractor.keys import Keys
from extractor.prompts import load_template


@pytest.fixture
def bench(tmp_path):
    with bench_at(tmp_path) as opened:
        yield opened


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


def test_who_waits_while_the_engine_starts_again_is_answered(tmp_path):
    opening, opened, busy = [], Event(), Event()

    def script(request):
        if "slow" in request.messages[-1]["content"]:
            busy.wait(15)
        return first_words(request)

    def engine():
        opening.append(True)
        assert len(opening) == 1 or opened.wait(15)
        return ScriptedEngine(script)

    with bench_at(tmp_path, engine) as bench, ThreadPoolExecutor(8) as pool:
        bench.trained(**WON)
        batcher = bench.running.service.batcher
        begun = pool.submit(bench.running.extract, OFFER | {"title": "slow boot"})
        bench.running.until(lambda: batcher.extracting)
        waits = pool.submit(bench.running.extract, OFFER)
        bench.running.until(lambda: batcher.waiting)
        promoted = pool.submit(bench.promote)
        bench.running.until(lambda: not batcher.ready)
        refused = bench.running.extract(OFFER)
        assert problem(refused, 503, "not-ready") and refused.headers["retry-after"] and not promoted.done()
        problem(bench.http.get("/readyz"), 503, "not-ready")
        problem(bench.http.post("/v1/adapters/rollback", json={"category": "Shoes"}), 409, "busy")
        busy.set()
        bench.running.until(lambda: len(opening) == 2)
        opened.set()
        assert promoted.result().status_code == 200
        served = [one.result().json()["results"][0]["provenance"]["adapter"] for one in (begun, waits)]
        assert served == [None, "shoes@1"] and bench.adapter() == "shoes@1"
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


def test_a_folder_that_cannot_be_written_leaves_all_as_it_was(bench):
    bench.trained(**WON)
    aside = bench.root / f".{REGISTRY}.{os.getpid()}"
    aside.mkdir()  # in the place of the file
    problem(bench.promote(), 503, "storage")
    assert bench.adapter() is None and Registry(bench.root).history == []
    aside.rmdir()
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


def test_an_adapter_asks_as_it_was_trained_by_a_template_of_the_store(tmp_path):
    prompts = []
    engine = ScriptedEngine(lambda request: prompts.append(request.messages[-1]["content"]) or first_words(request))
    text = load_template("extract").source + '{% call message("user") %}In our house.{% endcall %}'
    with bench_at(tmp_path, engine, saved=text) as bench:
        bench.trained(**WON)
        (file,) = {Path(call["settings"]["SHELFWISE_TEMPLATE"]) for call in bench.calls()}
        assert load_template(str(file)).source == text
        assert bench.promote().status_code == 200
        made = bench.running.extract(OFFER).json()["results"][0]["provenance"]
        assert made["adapter"] == "shoes@1" and made["template"].startswith("own@")
        job = begun(bench.running, table(3))
        ended(bench.running, job)
        (found,) = {r["provenance"]["template"] for r in records(bench.running, job)}
        assert found == made["template"]
    with bench_at(tmp_path, engine, n=0) as bench:  # by a shipped one, and the adapter by its own
        assert bench.adapter() == "shoes@1" and "In our house." in prompts[-1]


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
