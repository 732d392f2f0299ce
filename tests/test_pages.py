"""The pages, as people meet them: Chromium at a real server with the scripted engine."""

from functools import partial

import pytest
from browsing import accessible, browsing
from playwright.sync_api import Route, expect
from serving import begun, ended, serving, table

from extractor import AttributeSchema
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import EngineUnavailable
from extractor.service.pages import FILES, NAV

pytestmark = pytest.mark.browser


def test_who_has_no_key_is_led_to_the_way_in_and_back(browser, keyed):
    running, secrets = keyed
    with browsing(browser, running) as page:
        page.expected = ["401"]
        page.goto("/?to=https://evil.example")
        assert page.url == f"{running.url}/sign-in?to=%2F"
        accessible(page)
        for secret in (secrets["forged"], "ключ", secrets["revoked"]):
            page.fill("#key", secret)
            page.keyboard.press("Enter")
            expect(page.locator("#problem")).to_contain_text("No valid key")
            page.reload()
        page.fill("#key", secrets["extract"])
        page.keyboard.press("Enter")
        page.wait_for_url(running.url + "/")
        assert page.inner_text(".name") == "extract"
        page.click("#sign-out")
        page.wait_for_url(running.url + "/sign-in")
        page.goto("/")
        assert "/sign-in" in page.url


def test_what_does_not_reach_the_service_is_said(browser, keyed):
    running, secrets = keyed
    with browsing(browser, running, secrets["extract"]) as page:
        page.expected = ["ERR_FAILED", "502"]
        page.route("**/v1/session", lambda route: route.abort())
        page.click("#sign-out")
        expect(page.locator("#toasts")).to_contain_text("No connection")
        for status in (502, 200):
            page.route("**/v1/extract", partial(Route.fulfill, status=status, body="<html>"))
            page.fill("#title", "Velmora")
            page.click("#go")
            expect(page.locator("#result .why")).to_contain_text(f"answered {status}")


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_way_in_leads_nowhere_else(browser, keyed, to):
    running, secrets = keyed
    with browsing(browser, running) as page:
        page.goto(f"/sign-in?to={to}")
        page.fill("#key", secrets["extract"])
        page.keyboard.press("Enter")
        page.wait_for_url(running.url + "/")


def test_an_offer_is_tried(browser, keyed):
    running, secrets = keyed
    with browsing(browser, running, secrets["extract"]) as page:
        page.select_option("#schema", "Shoes")
        page.fill("#title", "👟 <b>Velmora</b> Loafer")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#result article")
        assert page.inner_text("#result h2") == "👟 <b>Velmora</b> Loafer"
        assert page.locator("#result mark").all_inner_texts() == ["👟"]
        page.hover("#result mark")
        assert "on" in page.get_attribute(".values [data-span]", "class")
        accessible(page)
        page.select_option("#schema", "own")
        page.fill("#attributes", "Sole, Heel ,")
        page.keyboard.press("Enter")
        expect(page.locator(".values dt bdi")).to_have_text(["Sole", "Heel"])
        page.fill("#attributes", "Sole, Sole")
        page.expected = ["422"]
        page.click("#go")
        page.wait_for_selector("#result .why")
        assert "'Sole' stands twice" in page.inner_text("#result .why")


def test_what_is_down_is_said(browser):
    def opened():
        raise EngineUnavailable("nothing listens there")

    with serving(opened, ready=False) as running, browsing(browser, running) as page:
        page.expected = ["503"]
        page.goto("/")
        page.fill("#title", "Velmora")
        page.click("#go")
        page.wait_for_selector("#result .why")
        assert "No engine answers" in page.inner_text("#result .why")


def test_a_page_for_others_says_so(browser, keyed):
    running, secrets = keyed
    for name in NAV:
        if name in ("try", "jobs"):
            continue
        with browsing(browser, running, secrets["extract"]) as page:
            page.expected = ["403"]
            page.goto(f"/{name}")
            assert page.inner_text("h1") == "The key may not do this"
            accessible(page)


def test_files_are_known_ones_with_tags(live):
    for name in FILES:
        response = live.http.get(f"/static/{name}")
        assert response.status_code == 200 and response.content == FILES[name]
        assert b"https://" not in FILES[name] and b"eval(" not in FILES[name]
        tag = {"If-None-Match": response.headers["etag"]}
        assert live.http.get(f"/static/{name}", headers=tag).status_code == 304
    for name in ("..%2Fapp.py", "%2E%2E/app.py", "style.css%00", ""):
        assert live.http.get(f"/static/{name}").status_code == 404
    policy = live.http.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy and "script-src 'self'" in policy
    assert len(live.http.get("/").headers.get_list("content-security-policy")) == 1


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/jobs/nothing"])
def test_who_types_a_wrong_address_gets_a_page_and_a_program_a_document(live, path):
    typed = live.http.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert typed.status_code == 404 and typed.headers["content-type"].startswith("text/html") and "<h1>" in typed.text
    assert "script-src 'self'" in typed.headers["content-security-policy"]
    assert live.http.get(path).headers["content-type"] == "application/problem+json"


def test_a_job_is_deleted_when_it_is_meant(browser):
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        for name in ("older.csv", "newer.csv"):
            ended(running, begun(running, table(3), name))
        page.goto("/jobs")
        newer = page.locator("article", has_text="newer.csv")
        newer.get_by_role("button", name="Delete").click()
        expect(newer.get_by_role("button", name="Delete for good")).to_be_focused()
        accessible(page)
        newer.get_by_role("link", name="Download").focus()
        expect(newer.get_by_role("button", name="Delete", exact=True)).to_be_visible()
        for left in (1, 0):
            page.locator("article").first.get_by_role("button", name="Delete").focus()
            page.keyboard.press("Enter")
            page.keyboard.press("Enter")
            expect(page.locator("article")).to_have_count(left)
            assert len(running.http.get("/v1/jobs").json()["jobs"]) == left
            assert page.evaluate("document.activeElement.id.startsWith('job-') || document.activeElement.id === 'file'")
        expect(page.locator("#no-jobs")).to_be_visible()
        assert running.service.store.records(["0", "1", "2"])


def test_a_schema_with_markup_is_text(browser, monkeypatch):
    hostile = AttributeSchema.from_names(["<img src=x onerror=alert(1)>", "'>{{ 7*7 }}"], "<script>alert(1)</script>")
    monkeypatch.setattr("serving.SCHEMAS", [hostile])
    with serving(ScriptedEngine()) as running, browsing(browser, running) as page:
        page.goto("/")
        assert page.inner_text("#schema option >> nth=0") == "<script>alert(1)</script>"
        assert "<img src=x onerror=alert(1)>" in page.inner_text("#asked")
        page.fill("#title", "x")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#result article")
        assert page.locator("#result img, #result script").count() == 0
