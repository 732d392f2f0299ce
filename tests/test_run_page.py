"""The page of a run, and calibration from the run to the record, as a user types the commands."""

import json
import re
from pathlib import Path

import pytest
from conftest import missing, run_cli

from eval.confidence_cli import calibrate
from extractor.errors import InputError

CHROMIUM = Path("/usr/bin/chromium")
BRANDS = ["Velmora", "Ostrin", "Karu", "<b>Fenno"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    """The scripted engine answers with the title's first word, and is sure of it: a quarter of its brands are wrong."""
    rows = [
        {
            "id": str(i),
            "category": "Shoes",
            "title": f"{brand if i % 4 else 'New ' + brand} Loafer {i}",
            "attributes": {"Brand": [brand], "Size": ["42 EU"]},
            "absent": ["Color"],
        }
        for i, brand in enumerate(BRANDS * 50)
    ]
    file = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture(scope="module")
def made(labels) -> tuple[Path, Path, str]:
    """The folder of a run, its page, and what was printed."""
    page = labels.parent / "page.html"
    command = ("eval", "run", "--data", str(labels), "--engine", "scripted", "--out", str(labels.parent / "runs"))
    done = run_cli(*command, "--html", str(page), "--training", str(labels), "--price", "prompt=0.4,output=1.6")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1]), page, done.stdout


def test_the_page_has_every_part(made):
    text = made[1].read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert headings == [
        *("Scores", "Outcomes and rates", "Cost", "Reliability", "Risk and coverage"),
        *("By attribute", "Worst attributes"),
    ]
    assert text.count("<svg") == 2 and "Expected calibration error 0.250" in text
    assert "model scripted@1, engine scripted, template extract@2" in text and "money for 1,000 offers" in text
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org", "")


def test_the_scores_are_those_of_the_run(made):
    folder, page, _ = made
    scores, text = json.loads((folder / "scores.json").read_text()), page.read_text()
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    cells = {label: re.findall(r">([^<]*)</td>", row) for label, row in rows}
    shown = scores["published"]
    assert cells["F1, published protocol"][:3] == [f"{shown[k]:.1f}" for k in ("precision", "recall", "f1")]
    assert cells["VC"][-1] == str(scores["outcomes"]["VC"]) == "150"
    assert cells["seconds"] == [f"{scores['cost']['seconds']:.1f}"]


def test_the_worst_attributes_come_first_with_offers(made):
    text = made[1].read_text()
    worst = text[text.index("Worst attributes</h2>") :]
    rows = [re.findall(r">([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", worst)][1:]
    assert [row[0] for row in rows] == ["Size"] * 3 + ["Brand"] * 3
    assert rows[0][1:6] == ["0.0", "New Velmora Loafer 0", "42 EU", "none", "–"]
    assert rows[3][1:] == ["75.0", "New Velmora Loafer 0", "Velmora", "New", "1.00", "0"]
    assert "&lt;b&gt;Fenno" in text or "<b>" not in text
    assert re.search(r'<th scope="col">gold</th>', worst)  # text, although "42 EU" begins with a digit


def test_score_writes_it_for_any_system(labels, tmp_path):
    said = tmp_path / "said.jsonl"
    said.write_text("\n".join(json.dumps({"pred": '{"Brand": "Velmora"}'}) for _ in range(200)))
    page = tmp_path / "new" / "page.html"
    done = run_cli("eval", "score", "--predictions", str(said), "--gold", str(labels), "--html", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "<svg" not in text and "Worst attributes" in text  # these predictions have no confidence


def test_calibration_from_the_run_to_the_record(labels, made, tmp_path):
    folder, file, page = made[0], tmp_path / "calibration.json", tmp_path / "page.html"
    done = run_cli("eval", "calibrate", "--run", str(folder), "--out", str(file), "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert "0.250" in done.stdout and done.stdout.splitlines()[-1].startswith("isotonic@")
    assert page.read_text().count("<svg") == 2
    about = json.loads(file.read_text())["fitted_on"]
    assert about == {
        "data": "labels",
        "split": "labels",
        "offers": 200,
        "values": 200,
        "model": "scripted@1",
        "adapter": None,
        "template": "extract@2",
        "demonstrations": 0,
    }
    command = ("--data", str(labels), "--engine", "scripted")
    again = tmp_path / "again.json"
    calibrate(data=labels, engine="scripted", runs=folder.parent, out=again)
    assert again.read_text() == file.read_text() and len(list(folder.parent.iterdir())) == 1  # the run was not repeated
    out = ("--out", str(folder.parent), "--calibration", str(file))
    calibrated = Path(run_cli("eval", "run", *command, *out).stdout.splitlines()[-1])
    scores = json.loads((calibrated / "scores.json").read_text())
    assert calibrated != folder and scores["confidence"]["calibration_error"] == pytest.approx(0, abs=1e-4)
    assert scores["inputs"]["calibration"].startswith("isotonic@")
    with pytest.raises(InputError, match="its confidences are calibrated already"):
        calibrate(run=calibrated, out=file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --data with labelled offers, or --run"),
        ({"data": "labels", "run": "run"}, "give --data with labelled offers, or --run"),
        ({"data": "labels", "engine": "scripted"}, "--out is missing"),
        ({"data": "labels", "engine": "scripted", "out": "c.json", "n": 20}, "20 values .*: too few"),
        ({"run": "run"}, "the run is one of scripted@1: --out says where its calibration goes"),
        ({"run": "run", "out": "/proc/none/c.json"}, "cannot be written: .* --out"),
    ],
)
def test_a_calibration_that_cannot_be_made(labels, made, tmp_path, options, message):
    places = {
        "labels": labels,
        "run": made[0],
        "c.json": tmp_path / "c.json",
        "/proc/none/c.json": Path("/proc/none/c"),
    }
    with pytest.raises(InputError, match=message):
        calibrate(runs=tmp_path, **{key: places.get(value, value) for key, value in options.items()})


@pytest.mark.browser
def test_the_page_opens_and_fits_a_phone_and_the_dark(made):
    if not CHROMIUM.exists():
        missing(str(CHROMIUM), "the page was not opened in a browser", "chromium")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        opened = browser.new_page(viewport={"width": 390, "height": 844})
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(made[1].as_uri())
        ink = []
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            assert opened.evaluate("document.documentElement.scrollWidth") <= 390
            assert opened.locator("figure svg").count() == 2 and opened.locator("figure svg").first.is_visible()
            ink.append(opened.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill"))
        browser.close()
    assert complaints == [] and ink[0] != ink[1]
