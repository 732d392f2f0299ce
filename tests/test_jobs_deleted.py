"""Jobs that are deleted, and how many a key may have."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import begun, ended, gate, problem, sent, serving, table

from extractor.client import Client


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled"])
def test_a_job_that_is_over_is_deleted_and_its_records_stay(live, state):
    first = {"finished": 20_000, "failed": 21_000, "cancelled": 22_000}[state]
    job = begun(live, table(3, first))
    ended(live, job)
    live.service.journal.move(job["id"], ["finished"], state=state)
    place = live.service.uploads.place(job["id"])
    assert place.is_dir()
    assert live.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert not place.exists() and job["id"] not in live.http.get("/v1/jobs").text
    for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/resume"), ("DELETE", "")):
        problem(live.http.request(method, f"/v1/jobs/{job['id']}{path}"), 404, "unknown-job")
    problem(live.http.post("/v1/jobs", json={"upload": job["id"]}), 404, "unknown-upload")
    assert len(live.service.store.records([str(first + n) for n in range(3)])) == 3
    noted = [(e.who, e.what) for e in live.service.journal.entries(20) if e.about == job["id"]]
    assert noted == [("anonymous", "job delete"), ("anonymous", "job submit")]


def test_a_job_that_is_not_over_is_not_deleted(monkeypatch):
    monkeypatch.setattr("extractor.service.jobs.PAUSE", 0.3)
    engine, opened = gate("Brand1 ")
    with serving(engine) as running:
        job = begun(running, table(3))
        running.until(lambda: running.service.batcher.extracting)
        assert "cancel it first" in problem(running.http.delete(f"/v1/jobs/{job['id']}"), 409, "state")["detail"]
        running.http.post(f"/v1/jobs/{job['id']}/cancel")
        problem(running.http.delete(f"/v1/jobs/{job['id']}"), 409, "state")  # the engine has begun with its chunk
        assert running.service.uploads.place(job["id"]).is_dir()
        opened.set()
        assert running.http.delete(f"/v1/jobs/{job['id']}").status_code == 204, "it waits until the job has stopped"
        assert not running.service.uploads.place(job["id"]).exists()


def test_a_key_has_so_many_jobs_that_are_not_finished(tmp_path):
    engine, opened = gate("Brand1 ")
    with serving(engine, jobs=2) as running, ThreadPoolExecutor(6) as pool:
        uploads = [sent(running, table(3, 10 * n)).json()["id"] for n in range(6)]
        submit = lambda upload: running.http.post("/v1/jobs", json={"upload": upload})  # noqa: E731
        answers = list(pool.map(submit, uploads))
        assert sorted(a.status_code for a in answers) == [202, 202, 429, 429, 429, 429]
        refused = next(a for a in answers if a.status_code == 429)
        assert "DELETE /v1/jobs/ID" in problem(refused, 429, "jobs")["detail"] and refused.headers["retry-after"]
        jobs = [a.json() for a in answers if a.status_code == 202]
        assert submit(jobs[0]["id"]).status_code == 202, "asked twice"
        running.http.post(f"/v1/jobs/{jobs[0]['id']}/cancel")
        left = [u for u in uploads if u not in [job["id"] for job in jobs]]
        problem(submit(left[0]), 429, "jobs")  # it can go on
        opened.set()
        with Client(running.url) as client:
            client.delete(jobs[0]["id"])
            assert client.wait(jobs[1]["id"]).state == "finished"
        assert [submit(upload).status_code for upload in left[:2]] == [202, 202]
