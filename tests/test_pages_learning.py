"""An adapter is trained and promoted on the page, by somebody who knows no command."""

import pytest
from browsing import accessible, browsing
from playwright.sync_api import expect
from workbench import WON, bench_at, decided

pytestmark = pytest.mark.browser


def test_an_adapter_is_trained_and_promoted(browser, tmp_path):
    with bench_at(tmp_path, n=34) as bench, browsing(browser, bench.running) as page:
        learn = page.locator(".learn[data-category=Shoes]")
        page.goto("/quality")
        expect(learn).to_contain_text("34 of 60 labelled offers")
        expect(learn.get_by_role("button")).to_have_count(0)
        accessible(page)
        decided(bench.running.service.store, 30, first=100)
        bench.stand(hold=True)
        page.reload()
        learn.get_by_role("button", name="Train an adapter").click()
        expect(learn).to_contain_text("step 3 of 12")
        accessible(page)
        learn.get_by_role("button", name="Cancel").click()
        expect(learn).to_contain_text("cancelled")
        bench.stand()
        learn.get_by_role("button", name="Go on").click()
        expect(learn).to_contain_text("not better than few-shot beyond chance")
        assert learn.locator(".scores tbody tr").all_inner_texts() == [
            "shoes@1\t61.5\t\t",
            "Zero-shot\t41.0\t+20.5\t+12.0 to +29.0",
            "Few-shot\t58.0\t+3.5\t−1.0 to +8.0",
        ]
        learn.get_by_role("button", name="Promote all the same").click()
        accessible(page)
        page.keyboard.type("the new season")
        page.keyboard.press("Enter")
        expect(learn).to_contain_text("shoes@1 serves")
        assert bench.adapter() == "shoes@1"
        bench.stand(**WON)
        learn.get_by_role("button", name="Train another").click()
        expect(learn).to_contain_text("shoes@2 is not better than shoes@1")
        learn.get_by_role("button", name="Roll back").click()
        expect(learn).to_contain_text("none serves")
        expect(learn).to_contain_text("shoes@2 is better than all of these")
        accessible(page)
        learn.get_by_role("button", name="Promote", exact=True).click()
        expect(learn).to_contain_text("shoes@2 serves")
        assert bench.adapter() == "shoes@2"


def test_what_is_refused_is_said(browser, tmp_path):
    with bench_at(tmp_path) as bench, browsing(browser, bench.running) as page:
        page.expected = ["409"]
        learn = page.locator(".learn")
        bench.stand(fail="no <b>room</b> left")
        bench.train()
        bench.ended("failed")
        page.goto("/quality")
        expect(learn.locator(".why")).to_contain_text("no <b>room</b> left")
        accessible(page)
        bench.stand(**WON)
        learn.get_by_role("button", name="Go on").click()
        card = bench.root / "shoes" / "1" / "adapter.json"
        promote = learn.get_by_role("button", name="Promote", exact=True)
        expect(promote).to_be_visible()
        card.write_text(card.read_text().replace('"Shoes":"shoes@', '"Shoes":"shoes@x'))
        promote.click()
        expect(page.locator("#toasts")).to_contain_text("what served before serves again")
        expect(learn).to_contain_text("none serves")


def test_reviewers_see_scores_and_no_buttons(browser, tmp_path, keyed):
    running, secrets = keyed
    decided(running.service.store, 60)
    with browsing(browser, running, secrets["review"]) as page:
        page.goto("/quality")
        expect(page.locator(".learn").first).to_contain_text("none serves")
        expect(page.locator(".learn").first).to_contain_text("--adapters FOLDER")
        expect(page.locator(".learn button")).to_have_count(0)


def test_a_page_learns_how_a_training_ended_after_it_lost_the_service(browser, tmp_path):
    with bench_at(tmp_path) as bench, browsing(browser, bench.running) as page:
        page.expected = ["ERR_FAILED"]
        bench.stand(hold=True)
        bench.train()
        page.goto("/quality")
        expect(page.locator(".learn progress")).to_be_visible()
        page.route("**/v1/adapters/jobs", lambda route: route.abort())
        expect(page.locator("#toasts")).to_contain_text("cannot be reached")
        bench.http.post(f"/v1/adapters/jobs/{bench.job()['id']}/cancel")
        bench.ended("cancelled")
        page.unroute("**/v1/adapters/jobs")
        expect(page.locator(".learn")).to_contain_text("cancelled")
