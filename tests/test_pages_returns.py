"""What a reviewer decided is not lost: whatever does not arrive comes back, and whatever was left waits again."""

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from reviewing import bags, decided, desk_at, keep, put, question, select, waiting
from sqlalchemy import delete

from extractor.database.tables import sessions

pytestmark = pytest.mark.browser


@pytest.fixture
def running():
    with bags() as opened:
        yield opened


def brands(*names, bag="bag by Moss"):
    return [(str(n), f"{name} {bag} {n}", None, {"Brand": [(name, n / 20)]}) for n, name in enumerate(names, 1)]


@pytest.mark.parametrize("key, values", [("y", ["Moss"]), ("n", [])])
def test_a_decision_that_does_not_arrive_comes_back_as_it_was_decided(browser, running, key, values):
    keep(running, *brands("Velmora", "Tarn"))
    with browsing(browser, running) as page:
        page.expected, held = ["ERR_FAILED"], []
        page.route("**/v1/feedback/decide", lambda route: held.append(route))
        page.goto("/review")
        question(page, "1", "Brand")
        select(page, "title", "Moss")
        with page.expect_request("**/v1/feedback/decide"):
            page.keyboard.press(key)
        question(page, "2", "Brand")
        page.keyboard.press("e")
        page.keyboard.type("Tar")
        held.pop().abort()
        expect(page.locator("#toasts")).to_contain_text("Nothing is lost")
        expect(page.locator("#waiting")).to_have_text("2")
        page.keyboard.type("n bag")
        question(page, "2", "Brand")
        page.unroute("**/v1/feedback/decide")
        page.keyboard.press("Enter")
        question(page, "1", "Brand")
        expect(page.locator("#problem")).to_contain_text("Nothing is lost")
        expect(page.locator("#draft")).to_have_text("".join(values) or "no value")
        page.keyboard.press("y")
        expect(page.locator("#done-title")).to_have_text("Nothing waits for review")
        running.until(lambda: decided(running, "1") == {"Brand": values})


def test_the_last_decision_comes_back_at_once(browser, running):
    keep(running, *brands("Velmora"))
    with browsing(browser, running) as page:
        page.expected = ["502"]
        page.route("**/v1/feedback/decide", lambda route: route.fulfill(status=502, body="<html>"), times=1)
        page.goto("/review")
        question(page, "1", "Brand")
        page.keyboard.press("y")
        expect(page.locator("#problem")).to_contain_text("answered 502")
        accessible(page)
        page.keyboard.press("y")
        expect(page.locator("#done")).to_be_visible()


def test_equal_cases_that_do_not_arrive_all_come_back(browser, running):
    keep(running, *brands(*["Velmora"] * 6), ("z", "Moss bag", None, {"Brand": [("Moss", 0.4)]}))
    with browsing(browser, running) as page:
        page.expected = ["ERR_FAILED"]
        page.route("**/v1/feedback/decide-alike", lambda route: route.abort())
        page.goto("/review")
        question(page, "1", "Brand")
        page.keyboard.press("a")
        question(page, "z", "Brand")
        expect(page.locator("#toasts")).to_contain_text("Nothing is lost")
        expect(page.locator("#waiting")).to_have_text("7")
        page.keyboard.press("s")
        for n in range(1, 7):
            question(page, str(n), "Brand")
            page.keyboard.press("s")
        expect(page.locator("#done")).to_be_visible()


def test_leaving_asks_while_decisions_are_on_their_way(browser, running):
    keep(running, *brands("Velmora", "Tarn"))
    with browsing(browser, running) as page:
        asked, held = [], []
        page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
        page.route("**/v1/feedback/decide", lambda route: held.append(route))
        page.goto("/review")
        question(page, "1", "Brand")
        with page.expect_request("**/v1/feedback/decide"):
            page.keyboard.press("y")
        question(page, "2", "Brand")
        page.click("nav >> text=Jobs", no_wait_after=True)
        question(page, "2", "Brand")
        assert asked == ["beforeunload"]
        with page.expect_response("**/v1/feedback/counts*"):
            held.pop().continue_()
        page.click("nav >> text=Jobs")
        page.wait_for_url("**/jobs")
        assert len(asked) == 1


def test_what_was_skipped_or_left_is_given_again(browser, running):
    keep(running, *brands("Velmora", "Tarn"))
    with browsing(browser, running) as page:
        page.goto("/review")
        for offer in "12":
            question(page, offer, "Brand")
            page.keyboard.press("s")
        expect(page.locator("#done")).to_contain_text("The rest is skipped, or somebody is at it")
        accessible(page)
        page.click("#again")
        question(page, "1", "Brand")
        other = page.context.new_page()
        other.goto("/review")
        question(other, "1", "Brand")
        other.keyboard.press("n")
        question(other, "2", "Brand")
        running.until(lambda: decided(running, "1") == {"Brand": []})
        page.expected = ["409"]
        page.keyboard.press("y")
        expect(page.locator("#toasts")).to_contain_text("decided at")
        question(page, "2", "Brand")


def test_what_was_selected_in_a_text_of_before_is_looked_at_again(browser, running):
    keep(running, *brands("Velmora"))
    with browsing(browser, running) as page:
        page.expected = ["409"]
        page.goto("/review")
        question(page, "1", "Brand")
        select(page, "title", "Moss")
        keep(running, *brands("Velmora", bag="tote by Moss"))
        page.keyboard.press("y")
        expect(page.locator("#toasts")).to_contain_text("load it again")
        expect(page.locator("#done")).to_contain_text("The rest is skipped, or somebody is at it")
        page.click("#again")
        question(page, "1", "Brand")
        expect(page.locator("#title")).to_have_text("Velmora tote by Moss 1")
        select(page, "title", "Moss")
        page.keyboard.press("y")
        expect(page.locator("#done-title")).to_have_text("Nothing waits for review")


def test_what_a_session_left_behind_is_given_to_the_next_one(browser, tmp_path):
    with desk_at(tmp_path / "store.sqlite") as desk:
        assert put(desk, waiting(3)).status_code == 200
        with browsing(browser, desk.running, desk.secret("ann")) as page:
            page.expected = ["401"]
            page.goto("/review")
            question(page, "o0", "Brand")
            with desk.keys.database.writing() as connection:
                connection.execute(delete(sessions))
            counts = f"{desk.running.url}/v1/feedback/counts"
            desk.running.until(lambda: page.request.get(counts).status == 401)
            page.keyboard.press("n")
            page.wait_for_url("**/sign-in?ended&to=%2Freview")
            expect(page.locator("main")).to_contain_text("Your session has ended")
            page.fill("#key", desk.secret("ann"))
            page.keyboard.press("Enter")
            page.wait_for_url("**/review")
            expect(page.locator("#offer")).to_have_text("o0")


def test_what_cannot_be_fetched_can_be_tried_again(browser, running):
    keep(running, *brands("Velmora"))
    with browsing(browser, running) as page:
        page.expected = ["ERR_FAILED"]
        page.route("**/v1/feedback/claim", lambda route: route.abort(), times=1)
        page.goto("/review")
        expect(page.locator("#done")).to_contain_text("The service cannot be reached")
        accessible(page)
        page.click("#again")
        question(page, "1", "Brand")
        page.route("**/v1/feedback/claim", lambda route: route.abort(), times=1)
        page.select_option("#order", "frequent")
        expect(page.locator("#done")).to_contain_text("The service cannot be reached")
        expect(page.locator("#item")).to_be_hidden()
        page.click("#again")
        question(page, "1", "Brand")
