"""Reviewing in a browser: by keyboard and mouse, thirty decisions a minute."""

import time

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from reviewing import bags, decided, keep, letters, question, select

pytestmark = pytest.mark.browser


@pytest.fixture
def running():
    with bags() as opened:
        yield opened


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


def test_sellers_markup_is_text(browser, running):
    title = "<img src=x onerror=alert(1)> <b>Velmora</b>"
    keep(running, ("<i>1</i>", title, "<script>alert(1)</script>", {"Brand": [("<b>Velmora</b>", 0.3)]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        page.wait_for_selector("#item:visible")
        assert page.inner_text("#title") == title and page.inner_text("#offer") == "<i>1</i>"
        assert page.locator("#item :is(img, script, b), #offer i").count() == 0


@pytest.mark.parametrize("attribute, typed, saved", [("Brand", "Moss", "Moss"), ("Gender", "wo", "Women")])
def test_what_is_typed_is_taken_by_a_click_on_accept(browser, running, attribute, typed, saved):
    keep(running, ("1", "Velmora Tote by Moss", None, {attribute: [("Velmora", 0.1)]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", attribute)
        page.fill("#value", typed)
        page.click("#accept")
        expect(page.locator("#done")).to_be_visible()
        running.until(lambda: decided(running, "1") == {attribute: [saved]})


def test_a_normalized_value_stays_when_another_joins_it(browser, running):
    keep(running, ("1", "Clutch for ladies", None, {"Audience": [("Women", 0.3, "normalized", "ladies")]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Audience")
        page.fill("#value", "Unisex")
        page.keyboard.press("Enter")
        page.click("#accept")
        expect(page.locator("#done")).to_be_visible()
        running.until(lambda: decided(running, "1") == {"Audience": ["Women", "Unisex"]})


def test_a_selection_ends_with_its_text(browser, running):
    keep(running, ("1", "Velmora Tote by Moss", "Made by Tarn", {"Brand": [("Velmora", 0.1)]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        chip = page.locator("#draft bdi")
        left, middle, right = letters(page, "title", "Moss")
        page.mouse.move(left + 1, middle)
        page.mouse.down()
        page.mouse.move(right + 20, page.locator("#value").bounding_box()["y"] + 5, steps=5)
        page.mouse.up()
        expect(chip).to_have_text("Moss")
        page.mouse.click(left + 5, middle, click_count=3)
        expect(chip).to_have_text("Velmora Tote by Moss")
        left, middle, right = letters(page, "description", "Made")
        page.mouse.move(right - 1, middle)
        page.mouse.down()
        page.mouse.move(left, page.locator("#title").bounding_box()["y"] + 5, steps=5)
        page.mouse.up()
        expect(chip).to_have_text("Made")


def test_evidence_far_down_is_in_view_and_the_next_text_begins_at_its_top(browser, running):
    lines = "\n".join(f"Line {n} about the bag." for n in range(80))
    keep(
        running,
        ("1", "Tote", f"{lines}\nMade by Zorvan.", {"Brand": [("Zorvan", 0.1)]}),
        ("2", "Tote", lines, {"Brand": [("Tote", 0.2)]}),
    )
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        box, mark = (page.locator(f"#description{inner}").bounding_box() for inner in ("", " mark"))
        assert box["y"] < mark["y"] < box["y"] + box["height"] - mark["height"]
        page.keyboard.press("y")
        question(page, "2", "Brand")
        assert page.evaluate("document.querySelector('#description').scrollTop") == 0


def test_keys_decide_after_a_pointer_chose_a_filter_and_with_caps_lock(browser, running):
    keep(running, *((str(n), f"Velmora{n} bag", None, {"Brand": [(f"Velmora{n}", n / 10)]}) for n in (1, 2)))
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        page.click("#order")
        page.select_option("#order", "frequent")
        expect(page.locator("#item[aria-busy=true]")).to_have_count(0)
        page.keyboard.press("y")
        question(page, "2", "Brand")
        page.focus("#attribute")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#item[aria-busy=true]")).to_have_count(0)
        expect(page.locator("#attribute")).to_be_focused()
        question(page, "2", "Brand")
        page.locator("#attribute").blur()
        page.keyboard.press("Shift+Y")
        expect(page.locator("#done")).to_be_visible()


def test_offers_without_a_category_are_not_those_of_all(browser, running):
    keep(running, ("1", "Velmora bag", None, {"Brand": [("Velmora", 0.1)]}))
    keep(running, ("2", "Moss bag", None, {"Brand": [("Moss", 0.2)]}), category=None)
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        page.select_option("#category", label="no category (1)")
        question(page, "2", "Brand")
        expect(page.locator("#waiting")).to_have_text("1")
        page.select_option("#category", label="All categories")
        question(page, "1", "Brand")
        expect(page.locator("#waiting")).to_have_text("2")


def test_filters_that_are_changed_quickly_hide_nothing(browser, running):
    keep(running, ("1", "Velmora bag", None, {"Brand": [("Velmora", 0.1)]}))
    keep(running, ("2", "Moss boot", None, {"Brand": [("Moss", 0.2)]}), category="Shoes")
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "1", "Brand")
        held, free = [], []
        page.route("**/v1/feedback/claim", lambda route: route.continue_() if free else held.append(route))
        with page.expect_request("**/v1/feedback/claim"):
            page.select_option("#order", "frequent")
        with page.expect_response("**/v1/feedback/counts*"):
            page.select_option("#category", "Shoes")
        free.append(True)
        for route in held:
            route.continue_()
        question(page, "2", "Brand")
        page.keyboard.press("y")
        expect(page.locator("#done-title")).to_have_text("Nothing waits here")


def test_long_texts_stay_within_the_window(browser, running):
    long, name = ("Velmora " * 25).strip(), "A" * 100
    keep(running, *((str(n), f"{long} bag {n}", None, {"Brand": [(long, 0.1)]}) for n in range(2)))
    keep(running, ("9", "Velmora", None, {name: [("Velmora", 0.01)]}))
    with browsing(browser, running) as page:
        page.goto("/review")
        question(page, "9", name)
        accessible(page)
        page.keyboard.press("s")
        expect(page.locator("#alike")).to_be_visible()
        accessible(page)
        page.goto("/")
        page.select_option("#schema", "own")
        page.fill("#attributes", name)
        page.fill("#title", "Velmora")
        page.click("#go")
        expect(page.locator("#result article")).to_be_visible()
        accessible(page)
