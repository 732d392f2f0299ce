"""What the tests of pages share: Debian's Chromium, and what is true of every page."""

from contextlib import contextmanager
from itertools import product
from pathlib import Path

from conftest import missing

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SIZES, THEMES = ((1280, 800), (390, 844)), ("light", "dark")


@contextmanager
def chromium():
    if not CHROMIUM.exists():
        missing(str(CHROMIUM), "no page was opened in a browser", "chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield browser
        browser.close()


@contextmanager
def browsing(browser, running, secret=None, size=SIZES[0], theme="light"):
    """A page of a fresh browser at a running service, signed in where there is a secret. Whatever the page complains of, and
    whatever of its policy it breaks, fails the test."""
    with_size = {"width": size[0], "height": size[1]}
    context = browser.new_context(base_url=running.url, viewport=with_size, color_scheme=theme, accept_downloads=True)
    page, complaints = context.new_page(), []
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on(
        "request", lambda r: complaints.append(r.url) if not r.url.startswith((running.url, "data:", "blob:")) else None
    )
    page.expected = []  # words of complaints that the test means to cause
    if secret:
        page.goto("/sign-in")
        page.fill("#key", secret)
        page.keyboard.press("Enter")
        page.wait_for_url(running.url + "/")
    try:
        yield page
    finally:
        context.close()
    assert [c for c in complaints if not any(words in c for words in page.expected)] == []


def accessible(page):
    """No finding of axe, nothing wider than the window, in both themes and widths, as the page stands."""
    from axe_playwright_python.sync_playwright import Axe

    before = page.viewport_size
    for (width, height), theme in product(SIZES, THEMES):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # no colour is on its way to another
        found = Axe().run(page).response["violations"]
        assert [(f["id"], f["impact"], [n["html"] for n in f["nodes"]][:3]) for f in found] == [], (width, theme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size(before)
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
