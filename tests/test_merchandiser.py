"""What a merchandiser does on the first day, who has never seen a terminal: in a browser, with the bundled model."""

import csv
import json

import pytest
from browsing import accessible, browsing, chromium
from openpyxl import load_workbook
from playwright.sync_api import expect
from reviewing import select
from serving import serving

from extractor.database import Database
from extractor.engines import create_engine
from extractor.io import read_labelled
from extractor.keys import Keys
from extractor.prompts import PROMPTS
from extractor.schema import load_schemas

pytestmark = [pytest.mark.browser, pytest.mark.model]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.SCHEMAS", load_schemas(PROMPTS / "schemas"))
        database = Database(tmp_path_factory.mktemp("store") / "store.sqlite")
        keys = Keys(database)
        _, secret = keys.create("Mara", "review", None, "test")
        with serving(lambda: create_engine("vllm", model="base"), keys, ready=False) as opened:
            opened.service.batcher.started.result(timeout=300)
            yield opened, secret
        database.close()


def test_the_first_day(running, tmp_path):
    service, secret = running
    rows = [json.loads(line) for line in (PROMPTS / "samples" / "catalogue.jsonl").read_text().splitlines()]
    with (tmp_path / "Spring offers.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["SKU", "Product name", "Details", "Kategorie", "Price"])
        sheet.writerows([r["id"], r["title"], r["description"] or "", r["category"], "9.99"] for r in rows)
    with chromium() as browser, browsing(browser, service, secret) as page:
        page.click("text=Jobs")
        expect(page.locator("#jobs[aria-busy=false]")).to_be_attached()  # the page is brought to life
        page.set_input_files("#file", tmp_path / "Spring offers.csv")
        expect(page.locator("#column-title")).to_have_value("Product name")
        assert [page.input_value(f"#column-{f}") for f in ("description", "category", "id")] == [
            "Details",
            "Kategorie",
            "SKU",
        ]
        assert page.locator("#preview tbody tr").count() == 10
        accessible(page)
        page.click("#start")
        expect(page.locator(".job .badge")).to_have_text("finished", timeout=240_000)
        assert page.inner_text(".job .facts").startswith("72 of 72 offers")
        page.click("text=Show 1 failed")
        expect(page.locator(".failed td >> nth=2")).to_contain_text("the offer has no text")
        accessible(page)

        page.click("text=Review")
        decided = {}
        for n in range(10):
            item = shown(page)
            decided[item] = page.locator("#draft .chip > bdi").all_inner_texts() if n % 2 else []
            page.keyboard.press("y" if n % 2 else "n")
            expect(page.locator("#offer")).not_to_have_text(item[0])
        page.select_option("#attribute", "Brand")
        page.wait_for_selector("#item[aria-busy=true]", state="detached")
        for _ in range(10):
            item = shown(page)
            word = page.evaluate("document.querySelector('#title').firstChild.textContent.trim().split(/[ ,]/)[0]")
            select(page, "title", word)
            expect(page.locator("#draft .chip > bdi")).to_have_text([word])
            decided[item] = [word]
            page.keyboard.press("y")
            expect(page.locator("#offer")).not_to_have_text(item[0])
        assert len(decided) == 20 and page.is_hidden("#problem")
        page.select_option("#attribute", "")
        page.select_option("#category", "Office Paper")
        page.wait_for_selector("#item[aria-busy=true]", state="detached")
        while page.is_hidden("#done"):
            item = shown(page)
            decided[item] = page.locator("#draft .chip > bdi").all_inner_texts()
            page.keyboard.press("y")
            changed = page.locator(
                f"#done:visible, #offer:not(:text-is({json.dumps(item[0])})), #name:not(:text-is({json.dumps(item[1])}))"
            )
            expect(changed.first).to_be_visible()
        accessible(page)

        page.click("text=Jobs")
        with page.expect_download() as download:
            page.click("text=Download")
        download.value.save_as(tmp_path / "results.csv")
        with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
            table = {row["offer_id"]: row for row in csv.DictReader(file)}
        page.select_option(".job select", "xlsx")
        with page.expect_download() as download:
            page.click("text=Download")
        download.value.save_as(tmp_path / "results.xlsx")
        head, *cells = load_workbook(tmp_path / "results.xlsx").active.iter_rows(values_only=True)
        workbook = {row[0]: dict(zip(head, row, strict=True)) for row in cells}
        assert len(table) == len(workbook) == 72
        for (offer, attribute), values in decided.items():
            if attribute == "Brand" or not values:  # others are written in their normal form
                assert table[offer][attribute] == "".join(values), (offer, attribute)
                assert (workbook[offer][attribute] or "") == "".join(values)

        page.click("text=Quality")
        expect(page.locator("#categories details")).to_have_count(8)
        accessible(page)
        with page.expect_download() as download:
            page.click("#labelled")
        download.value.save_as(tmp_path / "labelled.jsonl")
    labelled = {offer.id: offer for offer in read_labelled(tmp_path / "labelled.jsonl")}
    assert sum(offer.category == "Office Paper" for offer in labelled.values()) >= 5
    for (offer, attribute), values in decided.items():
        if offer in labelled:
            assert list(labelled[offer].attributes.get(attribute, [])) == values
            assert (attribute in labelled[offer].absent) == (not values)


def shown(page):
    expect(page.locator("#item")).to_be_visible()
    return page.inner_text("#offer"), page.inner_text("#name")
