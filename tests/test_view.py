"""The page: hostile text is inert, and a reader finds what they look for with the keyboard alone."""

import json

import pytest
from browsing import chromium
from conftest import run_cli

from extractor.prompts import PROMPTS
from extractor.view import write_html


def record(identity: str, title: str, **values: tuple[int, int]) -> dict:
    attributes = {
        name: [
            {
                "value": title[b:e],
                "normalized_value": None,
                "status": "verbatim",
                "confidence": 0.9,
                "evidence": {"field": "title", "begin": b, "end": e},
            }
        ]
        for name, (b, e) in values.items()
    }
    return {
        "offer_id": identity,
        "category": "Shoes",
        "title": title,
        "description": None,
        "attributes": attributes | {"Size": []},
        "truncated": False,
        "provenance": {"model": "base@1", "adapter": None, "engine": "scripted", "template": "extract@1"},
        "usage": {"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 1},
    }


def test_hostile_text_is_inert_and_spans_are_marked(tmp_path):
    page = tmp_path / "r.html"
    title = '<script>alert(1)</script> "Velmora" \ud83d\udc5f'.encode("utf-16", "surrogatepass").decode("utf-16")
    begin = title.index("Velmora")
    write_html([record("1", title, Brand=(begin, begin + 7), Maker=(begin, begin + 3))], page)
    text = page.read_text()
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text
    assert "<mark" in text and "https://" not in text and "http://" not in text.replace("http://www.w3.org", "")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "records.html"
    out = target.with_suffix(".jsonl")
    catalogue, schemas = str(PROMPTS / "samples" / "catalogue.jsonl"), str(PROMPTS / "schemas")
    run_cli("extract", catalogue, "--schema", schemas, "--engine", "scripted", "--out", str(out), "--html", str(target))
    assert len(out.read_text().splitlines()) == 72
    with chromium() as browser:
        opened = browser.new_page()
        complaints: list[str] = []
        opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(target.as_uri())
        yield opened
        assert complaints == []


def shown(page) -> int:
    return page.locator("article:visible").count()


@pytest.mark.browser
def test_the_page_filters_and_moves_by_keyboard(page):
    assert shown(page) == 72
    page.keyboard.press("f")
    assert shown(page) == 1 and page.get_by_text("invalid_offer").first.is_visible()
    page.keyboard.press("f")
    page.keyboard.press("/")
    page.keyboard.type("velmora")
    page.wait_for_timeout(400)
    assert 0 < shown(page) < 20
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('input[type=search]').value = ''")
    page.evaluate("document.querySelector('input[type=search]').dispatchEvent(new Event('input', {bubbles: true}))")
    page.wait_for_timeout(400)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.id || document.activeElement.textContent.slice(0, 40)")
    page.keyboard.press("j")
    second = page.evaluate("document.activeElement.id || document.activeElement.textContent.slice(0, 40)")
    assert first != second
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")


@pytest.mark.browser
def test_the_page_fits_a_phone_and_the_dark(page):
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert json.loads("[" + background[background.index("(") + 1 : -1] + "]")[0] < 60
