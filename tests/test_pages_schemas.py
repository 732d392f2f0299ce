"""Schemas in a browser: changed, tried and saved, and nothing of it by accident."""

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from serving import serving

from extractor.engines.scripted import ScriptedEngine

pytestmark = pytest.mark.browser


@pytest.fixture
def running():
    with serving(ScriptedEngine()) as served:
        yield served


def opened(page):
    page.goto("/schemas")
    expect(page.locator("#name")).to_have_value("Shoes")


def test_a_schema_is_changed_tried_and_saved(browser, running):
    with browsing(browser, running) as page:
        assert running.extract({"id": "1", "category": "Shoes", "title": "Tarn Boot"}, keep=True).status_code == 200
        opened(page)
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


def test_two_editors_do_not_overwrite_each_other(browser, running):
    with browsing(browser, running) as page:
        page.expected = ["409"]
        opened(page)
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


def test_a_new_category_does_not_replace_one_that_is_served(browser, running):
    with browsing(browser, running) as page:
        opened(page)
        page.click("#new")
        expect(page.locator("#category")).to_have_value("")
        page.fill("#name", "shoes ")
        expect(page.locator("#problem")).to_have_text("Shoes exists already; choose it above")
        with page.expect_response("**/validate"):
            page.click("#save")
        page.fill("#name", "Boots")
        page.click("#save")
        expect(page.locator("#toasts")).to_have_text("Saved as version 1.")
        assert [v["version"] for v in running.http.get("/v1/schema-versions/Shoes").json()] == [0]


def test_what_is_not_saved_is_not_left_without_a_question(browser, running):
    with browsing(browser, running) as page:
        asked, leave = [], []
        answer = lambda dialog: dialog.accept() if leave else dialog.dismiss()  # noqa: E731
        page.on("dialog", lambda dialog: (asked.append(dialog.type), answer(dialog)))
        opened(page)
        page.fill("#about", "an hour of work")
        page.select_option("#category", "Tea/Green")
        expect(page.locator("#category")).to_have_value("Shoes")
        page.click("#new")
        page.click("nav >> text=Quality", no_wait_after=True)
        expect(page.locator("#about")).to_have_value("an hour of work")
        assert asked == ["confirm", "confirm", "beforeunload"]
        leave.append(True)
        page.select_option("#category", "Tea/Green")
        expect(page.locator("#name")).to_have_value("Tea/Green")
        page.click("#new")
        page.click("nav >> text=Quality")
        page.wait_for_url("**/quality")
        assert len(asked) == 4


def test_enter_in_a_field_saves_nothing(browser, running):
    with browsing(browser, running) as page:
        opened(page)
        page.fill("#about", "half-writ")
        page.keyboard.press("Enter")
        page.keyboard.type("ten")
        page.click("#save")
        expect(page.locator("#version")).to_contain_text("Version 1")
        assert running.http.get("/v1/schemas/Shoes?version=1").json()["description"] == "half-written"


def test_a_schema_that_comes_late_does_not_replace_the_one_chosen_since(browser, running):
    with browsing(browser, running) as page:
        opened(page)
        held = []
        page.route("**/v1/schemas/Tea*", lambda route: held.append(route))
        with page.expect_request("**/v1/schemas/Tea*"):
            page.select_option("#category", "Tea/Green")
        page.select_option("#category", "Shoes")
        expect(page.locator(".attribute")).to_have_count(2)
        with page.expect_response("**/v1/schemas/Tea*"):
            held.pop().continue_()
        page.click("#add")
        expect(page.locator("#name")).to_have_value("Shoes")


def test_moving_and_removing_attributes_keeps_the_focus(browser, running):
    with browsing(browser, running) as page:
        opened(page)
        names, row = page.locator("#rows [name=name]"), page.locator(".attribute")
        row.nth(1).get_by_role("button", name="Up").focus()
        page.keyboard.press("Enter")
        expect(names.first).to_have_value("Color")
        expect(row.first.get_by_role("button", name="Up")).to_be_focused()
        for _ in range(2):
            row.first.get_by_role("button", name="Remove").focus()
            page.keyboard.press("Enter")
            expect(page.locator(".attribute [title=Remove]:focus, #add:focus")).to_have_count(1)
        expect(page.locator("#add")).to_be_focused()


@pytest.mark.parametrize(
    "engine, said",
    [
        (ScriptedEngine(), "1 of 1 offer comes out differently"),
        (ScriptedEngine(lambda request: "nonsense"), "1 of 1 offer fails"),
    ],
)
def test_what_a_draft_does_to_one_offer_is_said(browser, engine, said):
    with serving(engine) as running, browsing(browser, running) as page:
        page.goto("/schemas")
        expect(page.locator(".attribute").first).to_be_visible()
        page.click("#new")
        page.fill("#name", "Hats")
        page.fill("#titles", "Velmora Hat")
        page.click("#try")
        expect(page.locator("#summary")).to_have_text(said)
