"""Jobs, schemas and quality in a browser."""

import json
import re

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from serving import gate, serving

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


def test_a_schema_is_changed_tried_and_saved(browser):
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        assert running.extract({"id": "1", "category": "Shoes", "title": "Tarn Boot"}, keep=True).status_code == 200
        page.goto("/schemas")
        page.select_option("#category", "Shoes")
        expect(page.locator(".attribute")).to_have_count(2)
        expect(page.locator("#titles")).to_have_value("Tarn Boot")
        accessible(page)
        page.click("#add")
        page.keyboard.type("Color")
        expect(page.locator("#problem")).to_contain_text("stands twice")
        page.locator(".attribute >> nth=2").locator("[name=name]").fill("Heel")
        page.locator(".attribute >> nth=2").locator("[name=type]").select_option("enum")
        expect(page.locator("#problem")).to_contain_text("Heel: ")
        page.locator(".attribute >> nth=2").locator("[name=values]").fill("flat, high")
        expect(page.locator("#problem")).to_be_hidden()
        page.locator(".attribute >> nth=0").locator("[title=Remove]").click()
        page.fill("#titles", "Velmora Loafer\n\nMoss Pump\n")
        page.click("#try")
        expect(page.locator("#summary")).to_have_text("2 of 2 offers come out differently")
        assert page.locator(".tried .changed th").all_inner_texts()[:2] == ["Color", "Brand"]
        accessible(page)
        page.click("#save")
        expect(page.locator("#toasts")).to_contain_text("Saved as version 1")
        expect(page.locator("#version")).to_contain_text("Version 1")
        expect(page.locator(".attribute")).to_have_count(2)
        names = [a["name"] for a in running.http.get("/v1/schemas/Shoes").json()["attributes"]]
        assert names == ["Color", "Heel"]
        page.click("#new")
        page.fill("#name", "Hats")
        page.click("#save")
        expect(page.locator("#category")).to_have_value("Hats")


def test_two_editors_do_not_overwrite_each_other(browser):
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        page.expected = ["409"]
        page.goto("/schemas")
        page.select_option("#category", "Shoes")
        expect(page.locator("#name")).to_have_value("Shoes")
        other = {"schema": {"category": "Shoes", "attributes": [{"name": "Sole"}]}, "from_version": 0}
        assert running.http.put("/v1/schemas/Shoes", json=other).status_code == 200
        page.fill("#about", "Footwear")
        page.click("#save")
        expect(page.locator("#problem")).to_contain_text("version")


def test_who_may_not_save_may_try(browser, keyed):
    running, secrets = keyed
    with browsing(browser, running, secrets["review"]) as page:
        page.goto("/schemas")
        expect(page.locator(".attribute").first).to_be_visible()
        assert page.locator("#save").count() == 0
        page.fill("#titles", "Velmora Loafer")
        page.click("#try")
        expect(page.locator("#summary")).to_have_text("Nothing changes")


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
            "4",
            "0",
        ]
        assert page.locator(".chart .coverage circle").count() == 4
        accessible(page)
        with page.expect_download() as download:
            page.click("#labelled")
        assert len(download.value.path().read_text().splitlines()) == 4
