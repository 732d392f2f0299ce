"""Reviewing in a browser: by keyboard and mouse, thirty decisions a minute, nothing lost."""

import time

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from serving import SCHEMAS, serving

from extractor import Attribute, AttributeSchema
from extractor.engines.scripted import ScriptedEngine

pytestmark = pytest.mark.browser
BAGS = AttributeSchema(
    category="Bags",
    attributes=(
        Attribute(name="Brand", description="The maker."),
        Attribute(name="Gender", type="enum", values=("Men", "Women", "Unisex", "Kids")),
        Attribute(name="Color", multiple=True),
    ),
)


@pytest.fixture
def running(monkeypatch):
    monkeypatch.setattr("serving.SCHEMAS", [*SCHEMAS, BAGS])
    with serving(ScriptedEngine()) as opened:
        yield opened


def value(text, title, confidence, status="verbatim"):
    begin = title.find(text)
    place = {"field": "title", "begin": begin, "end": begin + len(text)} if begin >= 0 else None
    return {"value": text, "status": status, "confidence": confidence, "evidence": place}


def keep(running, *rows):
    """Into the store: id, title, and of each attribute the values with their confidences."""
    records = [
        {
            "offer_id": identity,
            "category": "Bags",
            "title": title,
            "description": description,
            "attributes": {name: [value(v, title, c) for v, c in found] for name, found in attributes.items()},
            "provenance": {
                "model": "base@4",
                "engine": "scripted",
                "template": "extract@2",
                "template_sha256": "0",
                "schema": BAGS.reference,
                "created": "2026-11-26T12:00:00+00:00",
            },
            "usage": {"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 1},
        }
        for identity, title, description, attributes in rows
    ]
    assert running.http.post("/v1/feedback/records", json={"records": records}).status_code == 200


def decided(running, identity):
    record = running.http.get(f"/v1/feedback/records/{identity}").json()
    return {name: [v["value"] for v in found] for name, found in record["attributes"].items()}


def select(page, field, text):
    """With the mouse, from the first letter to the last."""
    box = page.evaluate(
        """([field, text]) => {
            const place = document.getElementById(field), walk = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
            for (let node; (node = walk.nextNode()); ) {
                const at = node.data.indexOf(text);
                if (at < 0) continue;
                const range = document.createRange();
                range.setStart(node, at);
                range.setEnd(node, at + text.length);
                const r = range.getBoundingClientRect();
                return [r.left, r.top + r.height / 2, r.right];
            }
        }""",
        [field, text],
    )
    page.mouse.move(box[0] + 1, box[1])
    page.mouse.down()
    page.mouse.move(box[2] - 1, box[1], steps=4)
    page.mouse.up()


def question(page, offer, attribute):
    expect(page.locator("#offer")).to_have_text(offer)
    expect(page.locator("#name")).to_have_text(attribute)


def test_values_are_decided_by_keyboard_and_mouse(browser, running):
    keep(
        running,
        ("1", "👜 Velmora Tote, Tan", "Made by Tarn & Holt for women.", {"Brand": [("Velmora", 0.1)], "Gender": [], "Color": []}),
        ("2", "Moss Shopper", None, {"Brand": [("Moss", 0.2)]}),
        ("3", "Holdall in Red, Blue and Green", None, {"Color": [("Red", 0.3)]}),
        ("4", "Clutch for ladies", None, {"Gender": [("Men", 0.4)]}),
        ("5", "Velmora Purse", None, {"Brand": [("Velmora Purse", 0.5)]}),
    )  # fmt: skip
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        assert page.locator("#title mark").all_inner_texts() == ["Velmora"]
        assert page.inner_text("#waiting") == "5" and "The maker." in page.inner_text("#about")
        accessible(page)
        select(page, "description", "Tarn & Holt")
        assert page.locator("#draft bdi").all_inner_texts() == ["Tarn & Holt"]
        assert page.inner_text("#accept span") == "Save"
        page.keyboard.press("y")
        question(page, "2", "Brand")
        page.keyboard.press("n")
        question(page, "3", "Color")
        select(page, "title", "Green")
        page.keyboard.press("e")
        page.keyboard.type("Blue")
        page.keyboard.press("Enter")
        assert page.locator("#draft bdi").all_inner_texts() == ["Red", "Green", "Blue"]
        page.click("text=×", position={"x": 4, "y": 4})
        page.keyboard.press("Escape")
        page.click("#accept")
        question(page, "4", "Gender")
        page.keyboard.press("e")
        page.keyboard.type("wo")
        assert page.locator("#choices li").all_inner_texts() == ["Women"]
        accessible(page)
        page.keyboard.press("Enter")
        question(page, "5", "Brand")
        page.keyboard.press("u")
        question(page, "4", "Gender")
        page.keyboard.press("s")
        question(page, "5", "Brand")
        select(page, "title", "Velmora")
        page.keyboard.press("Enter")
        page.wait_for_selector("#done:visible")
        accessible(page)
    running.until(lambda: decided(running, "5") == {"Brand": ["Velmora"]})
    assert decided(running, "1")["Brand"] == ["Tarn & Holt"]
    place = running.http.get("/v1/feedback/records/1").json()["attributes"]["Brand"][0]["evidence"]
    assert place == {"field": "description", "begin": 8, "end": 19}
    assert decided(running, "2") == {"Brand": []} and decided(running, "3") == {"Color": ["Green", "Blue"]}
    assert decided(running, "4") == {"Gender": ["Men"]}


def test_an_emoji_before_a_value_does_not_move_it(browser, running):
    keep(running, ("1", "👜👩‍👧 Velmora Tote", None, {"Brand": [("Tote", 0.1)]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        assert page.locator("#title mark").all_inner_texts() == ["Tote"]
        select(page, "title", "Velmora")
        page.keyboard.press("y")
        page.wait_for_selector("#done:visible")
    running.until(lambda: decided(running, "1") == {"Brand": ["Velmora"]})


def test_equal_cases_are_accepted_at_once_and_taken_back(browser, running):
    keep(running, *((f"{n:03}", f"Velmora bag {n}", None, {"Brand": [("Velmora", 0.5)]}) for n in range(214)))
    with browsing(browser, running) as page:
        page.goto("/review")
        page.wait_for_selector("#item:visible")
        page.select_option("#order", "frequent")
        page.wait_for_selector("#item[aria-busy=true]", state="detached")
        expect(page.locator("#alike")).to_contain_text("214 offers")
        page.keyboard.press("a")
        page.wait_for_selector("#done:visible")
        expect(page.locator("#waiting")).to_have_text("0")
        page.keyboard.press("u")
        page.wait_for_selector("#item:visible")
        expect(page.locator("#waiting")).to_have_text("214")


def test_sixty_decisions_a_minute_are_held_up_by_nothing(browser, running):
    keep(running, *((f"{n:03}", f"Velmora{n} bag", None, {"Brand": [(f"Velmora{n}", 0.3)]}) for n in range(60)))
    with browsing(browser, running) as page:
        page.goto("/review")
        page.wait_for_selector("#item:visible")
        begun, seen = time.monotonic(), set()
        for _ in range(40):
            seen.add(shown := page.inner_text("#offer"))
            page.keyboard.press("y")
            expect(page.locator("#offer")).not_to_have_text(shown)
        assert len(seen) == 40 and time.monotonic() - begun < 40
        running.until(lambda: running.http.get("/v1/feedback/counts").json()["waiting"] == 20)
        expect(page.locator("#waiting")).to_have_text("20")


def test_a_decision_that_does_not_arrive_comes_back(browser, running):
    keep(
        running,
        ("1", "Velmora bag", None, {"Brand": [("Velmora", 0.3)]}),
        ("2", "Moss bag", None, {"Brand": [("Moss", 0.4)]}),
    )
    with browsing(browser, running) as page:
        page.expected = ["ERR_FAILED"]
        broken = ["once"]
        page.route("**/v1/feedback/decide", lambda route: route.abort() if broken else route.continue_())
        page.goto("/review")
        question(page, "1", "Brand")
        page.keyboard.press("y")
        page.wait_for_selector("#problem:visible")
        question(page, "1", "Brand")
        assert "Nothing is lost" in page.inner_text("#problem")
        broken.clear()
        page.keyboard.press("y")
        question(page, "2", "Brand")
    running.until(lambda: running.http.get("/v1/feedback/counts").json()["waiting"] == 1)


def test_sellers_markup_is_text(browser, running):
    title = "<img src=x onerror=alert(1)> <b>Velmora</b>"
    keep(running, ("<i>1</i>", title, "<script>alert(1)</script>", {"Brand": [("<b>Velmora</b>", 0.3)]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        page.wait_for_selector("#item:visible")
        assert page.inner_text("#title") == title and page.inner_text("#offer") == "<i>1</i>"
        assert page.locator("#item :is(img, script, b), #offer i").count() == 0
