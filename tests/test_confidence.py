"""Confidence: of a value, calibrated, and how far it can be trusted."""

import json
import math
import random

import numpy as np
import pytest
from conftest import run_cli
from pydantic import ValidationError

from eval.calibrate import calibrate, cross_validated, fit_curve
from eval.confidence import calibration_error, coverage_at, lower_bound, reliability, risk_coverage, upper_bound
from eval.metrics import NV, VC, VW, Cells
from extractor import Extraction, Extractor, ProductOffer, load_calibration
from extractor.confidence import (
    Calibration,
    FittedOn,
    Isotonic,
    Platt,
    clipped_logit,
    span_confidence,
    token_ends,
)
from extractor.config import find_calibration, load_settings
from extractor.engines.base import Generation
from extractor.engines.models import BASE_MODEL, model_reference
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import InputError
from extractor.records import Provenance
from extractor.schema import AttributeSchema

ABOUT = FittedOn(data="oa_mine", split="train", offers=9, values=99, model="scripted@1", template="extract@1")
STEPS = Isotonic(x=(0.2, 0.5, 0.5001, 0.9), y=(0.0, 0.25, 0.5, 0.95))


def calibration(**changes) -> Calibration:
    return Calibration(**({"curve": STEPS, "fitted_on": ABOUT, "error_before": 0.2, "error_after": 0.1} | changes))


# --- of a value -------------------------------------------------------------------------------------------------------


def test_tokens_cover_the_text_also_where_a_character_takes_several():
    assert token_ends(["{", '"a": "', "Red", '"', "}"], '{"a": "Red"}') == [1, 7, 10, 11, 12]
    assert token_ends(['"', "\ufffd", "\ufffd", "👟x", '"'], '"👟x"') == [1, 1, 1, 3, 4]
    assert token_ends(['"', "\ufffd", "\ufffd", '"'], '"👟"') == [1, 1, 1, 3]


def test_confidence_is_the_probability_of_the_value_with_its_quotes():
    text, pieces = '{"a": "Red", "b": null}', ["{", '"a": ', '"', "Red", '", ', '"b": ', "null", "}"]
    ends, logprobs = token_ends(pieces, text), [math.log(p) for p in (1, 1, 0.5, 0.8, 0.9, 1, 0.7, 1)]
    assert span_confidence(ends, logprobs, 6, 11) == pytest.approx(0.5 * 0.8 * 0.9)
    # one token that closes the key and opens the value decides between value and null: it counts
    merged = ["{", '"a": "', "Red", '", ', '"b": null}']
    assert span_confidence(token_ends(merged, text), [0, math.log(0.4), 0, 0, 0], 6, 11) == pytest.approx(0.4)
    assert span_confidence([], [], 6, 11) is None


# --- the curve --------------------------------------------------------------------------------------------------------


def random_labels(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = rng.beta(2, 1, n).round(2 if seed % 2 else 4)
    return confidence, rng.random(n) < confidence**2


@pytest.mark.parametrize("n", [1, 2, 7, 50, 2000])
@pytest.mark.parametrize("seed", [0, 1])
def test_knots_are_applied_as_scikit_learn_applies_them(n, seed):
    from sklearn.isotonic import IsotonicRegression

    confidence, right = random_labels(n, seed)
    edge = 1 / (n + 2)
    theirs = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(confidence, right)
    ours = fit_curve("isotonic", confidence, right)
    asked = np.concatenate([[0.0, 1.0], confidence, np.random.default_rng(9).random(500)])
    assert [ours.at(c) for c in asked.tolist()] == pytest.approx(theirs.predict(asked).tolist(), abs=1e-12)
    assert all(0 < ours.at(c) < 1 for c in asked.tolist())  # labels never show certainty


def test_platt_is_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    confidence, right = random_labels(800, 2)
    logits = np.array([[clipped_logit(c)] for c in confidence.tolist()])
    theirs = LogisticRegression(C=np.inf).fit(logits, right).predict_proba(logits)[:, 1]
    ours = fit_curve("platt", confidence, right)
    assert [ours.at(c) for c in confidence.tolist()] == pytest.approx(theirs.tolist(), abs=1e-9)


@pytest.mark.parametrize("curve", [STEPS, Platt(slope=3.0, intercept=-40.0), Platt(slope=900.0, intercept=0.0)])
def test_a_calibrated_confidence_is_bounded_and_keeps_the_order(curve):
    found = [calibration(curve=curve)(i / 1000) for i in range(1001)]
    assert found == sorted(found) and found[0] >= 0 and found[-1] <= 1


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibration_helps_on_offers_that_it_has_not_seen(method):
    confidence, right = random_labels(3000, 4)
    found = calibrate(values(confidence, right, per_offer=3), method, ABOUT).calibration
    assert found.error_after < 0.05 < found.error_before


def test_held_out_values_are_judged_by_curves_without_their_offer():
    confidence, right = random_labels(60, 5)
    offers = np.arange(60) // 2
    held_out = cross_validated("isotonic", confidence, right, offers)
    for offer in range(30):
        others = offers != offer
        changed = right.copy()
        changed[~others] = ~changed[~others]  # what an offer's own labels say must not reach its confidences
        again = cross_validated("isotonic", confidence, changed, offers)
        assert (again[~others] == held_out[~others]).all()


@pytest.mark.parametrize(
    ("confidence", "right", "method", "message"),
    [
        ([0.5] * 49, [True] * 49, "isotonic", "49 values with a confidence that gold can judge: too few"),
        ([0.5] * 60, [True] * 60, "platt", "all values are right, or all are wrong"),
        ([0.9, 0.1] * 60, [False, True] * 60, "platt", "values of higher confidence are right less often"),
    ],
)
def test_what_cannot_be_fitted(confidence, right, method, message):
    with pytest.raises(InputError, match=message):
        calibrate(values(np.array(confidence), np.array(right)), method, ABOUT)


def values(confidence: np.ndarray, right: np.ndarray, per_offer: int = 1) -> Cells:
    n = len(confidence)
    zeros, ones = np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64)
    return Cells(
        groups=[("Shoes", "Brand")],
        offers=n // per_offer,
        offer=np.arange(n) // per_offer,
        group=zeros,
        outcome=np.where(right, VC, np.where(np.arange(n) % 2, VW, NV)),
        listed=ones.astype(bool),
        overlaps=zeros.astype(bool),
        right=right.astype(np.int64),
        predicted=ones,
        expected=ones,
        ungrounded=zeros,
        confidence=confidence,
        seen=zeros.astype(bool),
        frequency=zeros,
        length=zeros,
    )


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_written(tmp_path):
    for curve in (STEPS, Platt(slope=0.7261, intercept=0.1)):
        written = calibration(curve=curve)
        file = tmp_path / "calibration.json"
        file.write_text(written.model_dump_json(indent=1))
        assert load_calibration(file) == written
        assert load_calibration(file).reference == written.reference
    assert calibration().reference != calibration(curve=Platt(slope=1, intercept=0)).reference


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("curve", "knots"), [], "curve.isotonic.knots: Extra inputs are not permitted"),
        (("temperature",), 1.5, "temperature: Extra inputs are not permitted"),
        (("curve", "method"), "beta", "curve: Input tag 'beta'"),
        (("curve", "x"), [0.2, 0.1, 0.3, 0.4], "the knots do not rise"),
        (("curve", "y"), [0.2, 0.1, 0.3, 0.4], "the knots do not rise"),
        (("curve", "y"), [0.2], "4 knots have 1 values"),
        (("curve", "y"), [0.2, 0.3, 0.3, 1.2], "curve.isotonic.y.3: Input should be less than or equal to 1"),
        (("curve", "x"), [], "curve.isotonic.x: Tuple should have at least 1 item"),
        (("curve",), {"method": "platt", "slope": -1, "intercept": 0}, "curve.platt.slope: .*greater than or equal"),
        (("fitted_on",), {}, "fitted_on.data: Field required"),
    ],
)
def test_a_file_that_is_no_calibration_is_named_with_its_key(tmp_path, place, value, message):
    content = json.loads(calibration().model_dump_json())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"calibration.json: not a calibration: .*{message}"):
        load_calibration(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no calibration can be read there: No such file"),
        (b"{", "Invalid JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, message):
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_calibration(file)


def test_a_calibration_does_not_change():
    with pytest.raises(ValidationError):
        calibration().error_before = 0.0


# --- in the extractor -------------------------------------------------------------------------------------------------

SCHEMA = AttributeSchema.from_names(["Brand", "Color"], "Shoes")
OFFER = ProductOffer(id="1", category="Shoes", title="Velmora Loafer")


def says_half(request) -> Generation:
    """Velmora with a probability of 0.7; no log-probabilities for the rest."""
    pieces = ['{"Brand": ', '"Velmora"', ', "Color": null}']
    return Generation("".join(pieces), pieces, [0.0, math.log(0.7), 0.0])


def test_the_extractor_applies_it_and_says_so():
    plain, made = (Extractor(ScriptedEngine(says_half), SCHEMA, calibration=c) for c in (None, calibration()))
    before, after = (e.extract([OFFER])[0].to_dict() for e in (plain, made))
    assert before["attributes"]["Brand"][0]["confidence"] == 0.7
    assert after["attributes"]["Brand"][0]["confidence"] == pytest.approx(
        0.5 + 0.45 * (0.7 - 0.5001) / 0.3999, abs=1e-4
    )
    assert before["provenance"]["calibration"] is None
    assert after["provenance"]["calibration"] == calibration().reference
    unsure = ScriptedEngine(lambda request: Generation('{"Brand": "Velmora", "Color": null}'))
    record = Extractor(unsure, SCHEMA, calibration=calibration()).extract([OFFER])[0].to_dict()
    assert record["attributes"]["Brand"][0]["confidence"] is None


def test_records_without_the_key_are_still_read():
    made = Extractor(ScriptedEngine(), SCHEMA).extract([OFFER])[0].to_dict()
    del made["provenance"]["calibration"]
    assert Extraction.model_validate(made).provenance.calibration is None
    assert list(Provenance.model_fields)[-1] == "created"


@pytest.mark.parametrize("changes", [{"model": "base@7"}, {"adapter": "shoes"}])
def test_the_calibration_of_another_model_is_refused(changes):
    other = calibration(fitted_on=ABOUT.model_copy(update=changes))
    with pytest.raises(InputError, match=r"fitted on .*, not on scripted@1; fit one with .*--calibration none"):
        Extractor(ScriptedEngine(), SCHEMA, calibration=other)


def test_which_calibration_is_loaded(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    about = ABOUT.model_copy(update={"model": "model"})

    def found(**settings) -> str | None:
        calibrated = find_calibration(load_settings(**({"engine": "vllm", "model": str(model)} | settings)))
        return calibrated.fitted_on.data if calibrated else None

    assert found() is None
    for file, data in ((model / "calibration.json", "beside"), (tmp_path / "other.json", "named")):
        file.write_text(calibration(fitted_on=about.model_copy(update={"data": data})).model_dump_json())
    assert found() == found(engine="huggingface") == "beside"
    assert found(calibration=str(tmp_path / "other.json")) == "named"
    assert found(calibration="none") is found(calibration="off") is found(engine="server") is None
    with pytest.raises(InputError, match="no calibration can be read there"):
        found(calibration=str(tmp_path / "missing.json"))
    with pytest.raises(InputError, match=f"fitted on model, not on {model_reference(str(BASE_MODEL))}"):
        found(model="base", calibration=str(tmp_path / "other.json"))
    (tmp_path / "shoes").mkdir()
    (tmp_path / "shoes" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="not on model with adapter shoes"):
        found(adapter=tmp_path / "shoes", calibration=str(tmp_path / "other.json"))
    assert found(adapter=tmp_path / "shoes") is None  # the model's own is not that of its adapters


def test_extract_takes_it_on_the_command_line(write, tmp_path):
    offers = write("offers.jsonl", OFFER.model_dump_json())
    command = ("extract", str(offers), "--attributes", "Brand", "--engine", "scripted")
    file = write("calibration.json", calibration(curve=Isotonic(x=(1.0,), y=(0.625,))).model_dump_json())
    done = run_cli(*command, "--calibration", str(file))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["attributes"]["Brand"][0]["confidence"] == 0.625
    assert json.loads(run_cli(*command).stdout)["attributes"]["Brand"][0]["confidence"] == 1.0
    other = write("b.json", calibration(fitted_on=ABOUT.model_copy(update={"model": "base@7"})).model_dump_json())
    refused = run_cli(*command, "--calibration", str(other))
    assert refused.returncode == 2 and "fitted on base@7, not on scripted@1" in refused.stderr


# --- how far it can be trusted ----------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    confidence, correct = np.array([0.9, 0.9, 0.1]), np.array([True, False, False])
    assert calibration_error(confidence, correct) == pytest.approx((0.8 + 0.1) / 3)
    assert calibration_error(np.array([]), np.array([], dtype=bool)) == 0.0


def test_coverage_at_a_precision():
    confidence = np.array([0.9, 0.8, 0.8, 0.7])
    correct = np.array([True, True, False, True])
    assert coverage_at(0.95, confidence, correct) == 0.25
    assert coverage_at(0.75, confidence, correct) == 1.0  # a threshold of 0.8 gives 2 of 3, one of 0.7 3 of 4
    assert coverage_at(1.0, confidence[1:3], correct[1:3]) == 0.0  # equal confidences are accepted together


def test_risk_and_coverage_against_every_threshold():
    rng = random.Random(6)
    for _ in range(50):
        n = rng.randrange(1, 30)
        confidence = np.array([rng.randrange(8) / 8 for _ in range(n)])
        right = np.array([rng.random() < c for c in confidence])
        coverage, risk = risk_coverage(confidence, right)
        limits = sorted(set(confidence.tolist()), reverse=True)
        assert coverage.tolist() == pytest.approx([(confidence >= t).mean() for t in limits])
        assert risk.tolist() == pytest.approx([(~right[confidence >= t]).mean() for t in limits])


def test_bounds_are_those_of_scipy():
    from scipy.stats import binomtest

    for n in (1, 5, 114):
        for k in range(0, n + 1, max(1, n // 7)):
            exact = binomtest(k, n).proportion_ci(0.8, method="exact")  # two-sided at 0.8: one-sided at 0.9
            assert float(lower_bound(k, n, 0.9)) == pytest.approx(exact.low)
            assert float(upper_bound(k, n, 0.9)) == pytest.approx(exact.high)


def test_reliability_has_every_value_once_and_equal_ones_together():
    confidence, right = random_labels(997, 1)
    bins = reliability(confidence, right)
    assert len(bins) == 10 and sum(b.n for b in bins) == 997
    assert sum(b.n * b.right for b in bins) == pytest.approx(right.sum())
    assert sum(b.n * b.confidence for b in bins) == pytest.approx(confidence.sum())
    assert all(b.low <= b.right <= b.high for b in bins) and min(b.n for b in bins) > 50
    assert len(reliability(np.full(20, 0.5), np.ones(20, dtype=bool))) == 1
    assert reliability(np.array([]), np.array([], dtype=bool)) == []
