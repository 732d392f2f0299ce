"""Jobs and quality in a browser."""

import json
import re

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from serving import begun, ended, gate, serving, table

from extractor.engines.scripted import ScriptedEngine

pytestmark = pytest.mark.browser
OFFERS = [{"sku": str(n), "name": f"Velmora{n} Loafer", "kind": "Shoes"} for n in range(80)]


@pytest.fixture
def sent(tmp_path):
    def make(rows, name="offers.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return make


def test_a_job_is_watched_cancelled_and_goes_on(browser, sent):
    engine, opened = gate("Velmora70 ")
    with serving(engine, batch=10, queue=80) as running, browsing(browser, running) as page:
        page.goto("/jobs")
        expect(page.locator("#no-jobs")).to_be_visible()
        page.set_input_files("#file", sent(OFFERS, "<b>offers<b>.jsonl"))
        expect(page.locator("#column-title")).to_have_value("name")
        page.select_option("#column-category", "kind")
        page.click("#start")
        expect(page.locator(".state")).to_have_text("runs")
        expect(page.locator(".job .facts")).to_contain_text(re.compile("[1-7]0 offers so far"))
        assert page.locator(".job b").count() == 0 and "<b>offers<b>" in page.inner_text(".job h3")
        accessible(page)
        page.click("text=Cancel")
        opened.set()
        expect(page.locator(".state")).to_have_text("cancelled")
        page.click("text=Go on")
        expect(page.locator(".state")).to_have_text("finished")
        page.reload()
        expect(page.locator(".job .facts")).to_contain_text("80 of 80 offers")
        with page.expect_download() as download:
            page.click("text=Download")
        assert len(download.value.path().read_text().splitlines()) == 81


def test_what_is_no_file_of_offers_is_said(browser, sent, tmp_path):
    (tmp_path / "offers.xlsx").write_bytes(b"PK\x03\x04 nonsense")
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        page.expected = ["422"]
        page.goto("/jobs")
        page.set_input_files("#file", tmp_path / "offers.xlsx")
        expect(page.locator("#problem")).to_be_visible()
        accessible(page)
        page.set_input_files("#file", sent(OFFERS[:3]))
        expect(page.locator("#problem")).to_be_hidden()
        page.select_option("#schema", "own")
        page.fill("#attributes", "Sole")
        page.click("#start")
        expect(page.locator(".state")).to_have_text("finished")


def test_many_jobs_leave_connections_to_the_rest_of_the_site(browser):
    engine, opened = gate("Brand0 ")
    with serving(engine, batch=10, queue=80) as running, browsing(browser, running) as page:
        try:
            for n in range(8):
                begun(running, table(30), f"offers{n}.csv", schema="Shoes")
            page.goto("/jobs")
            expect(page.locator(".job")).to_have_count(8)
            page.locator(".job").first.get_by_role("button", name="Cancel").click()
            expect(page.locator(".state").first).to_have_text("cancelled")
            other = page.context.new_page()
            other.goto("/review")
            expect(other.locator("#done")).to_be_visible()
        finally:
            opened.set()


def test_a_page_learns_how_a_job_ended_after_it_lost_the_service(browser):
    engine, opened = gate("Brand95 ")
    with serving(engine, batch=10, queue=80) as running, browsing(browser, running) as page:
        try:
            page.expected, broken = ["502"], []
            answer = lambda route: route.fulfill(status=502, body="<html>") if broken else route.continue_()  # noqa: E731
            page.route(re.compile("/v1/jobs(/.+/events)?$"), answer)
            job = begun(running, table(100), schema="Shoes")
            page.goto("/jobs")
            expect(page.locator(".job .facts")).to_contain_text("offers so far")
            broken.append(True)
            expect(page.locator("#toasts")).to_contain_text("answered 502")
        finally:
            opened.set()
        ended(running, job)
        broken.clear()
        expect(page.locator(".state")).to_have_text("finished")
        expect(page.locator("#toasts")).to_contain_text("offers.csv is finished")


def test_what_is_opened_and_focused_stays_as_a_job_goes_on(browser):
    engine, opened = gate("Brand95 ")
    with serving(engine, batch=10, queue=80) as running, browsing(browser, running) as page:
        try:
            head, rows = table(100).split(b"\n", 1)
            begun(running, head + b"\nx1,,Shoes\nx2,,Shoes\n" + rows)
            page.goto("/jobs")
            page.get_by_role("button", name="Show 2 failed").click()
            expect(page.locator(".failed tbody tr")).to_have_count(2)
            page.locator(".job select").select_option("xlsx")
            page.focus(".job select")
        finally:
            opened.set()
        expect(page.locator(".state")).to_have_text("finished")
        expect(page.locator(".failed tbody tr")).to_have_count(2)
        expect(page.locator(".job select")).to_be_focused()
        expect(page.locator(".job select")).to_have_value("xlsx")


def test_another_file_begins_anew_however_long_the_name_of_the_first(browser, sent):
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        page.expected = ["422"]
        page.goto("/jobs")
        page.set_input_files("#file", sent(OFFERS[:3], f"{'x' * 180}.jsonl"))
        page.select_option("#schema", "own")
        page.fill("#attributes", "Sole, Sole")
        page.click("#start")
        expect(page.locator("#problem")).to_contain_text("stands twice")
        accessible(page)
        page.click("#other-file")
        expect(page.locator("#problem")).to_be_hidden()


def test_quality_over_days(browser):
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        page.goto("/quality")
        expect(page.locator("#nothing")).to_be_visible()
        accessible(page)
        offers = [{"id": str(n), "category": "Shoes", "title": f"Velmora{n}"} for n in range(8)]
        records = running.extract(*offers).json()["results"]
        for n, record in enumerate(records):
            record["provenance"]["created"] = f"2026-11-{20 + n % 4}T12:00:00+00:00"
        assert running.http.post("/v1/feedback/records", json={"records": records}).status_code == 200
        for n in range(4):
            decision = {"offer_id": str(n), "attribute": "Brand", "values": [f"Velmora{n}"] if n else []}
            assert running.http.post("/v1/feedback/decide", json=decision).status_code == 200
        page.reload()
        expect(page.locator(".quality tbody tr")).to_have_count(2)
        assert page.locator(".quality tbody tr >> nth=0").inner_text().split() == [
            "Brand",
            "88",
            "%",
            "75",
            "%",
            "of",
            "4",
            "0",
        ]
        assert page.locator(".chart .coverage circle").count() == 4
        accessible(page)
        with page.expect_download() as download:
            page.click("#labelled")
        assert len(download.value.path().read_text().splitlines()) == 4
