"""Fitting the curve that turns a model's confidences into shares of right values; see `extractor.confidence`.

shelfwise eval calibrate --data sets/oa_mine --split train
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eval import plots
from eval.confidence import Bools, calibration_error, correct, coverage_at, reliability, risk_coverage
from eval.metrics import Cells, Floats
from eval.page import Section
from eval.predictions import maker_of
from eval.run import Run
from extractor.confidence import Calibration, FittedOn, Isotonic, Platt, clipped_logit
from extractor.config import Settings, calibration_file, model_of
from extractor.errors import InputError

Method = Literal["isotonic", "platt"]
FOLDS = 5
FEWEST = 50  # values; below, a curve is the noise of its data


@dataclass(frozen=True)
class Fit:
    """A calibration with the judged values that it was fitted on: `held_out` are their confidences under curves that were
    fitted without their offers."""

    calibration: Calibration
    confidence: Floats
    held_out: Floats
    right: Bools


def fit_curve(method: Method, confidence: Floats, right: Bools) -> Isotonic | Platt:
    """Raises InputError where right values do not have the higher confidences."""
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        # No number of labels shows certainty: the rule of succession bounds the ends, which rest on few values.
        edge = 1 / (len(right) + 2)
        rising = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(confidence, right)
        return Isotonic(x=tuple(rising.X_thresholds_.tolist()), y=tuple(rising.y_thresholds_.tolist()))
    from sklearn.linear_model import LogisticRegression

    if right.all() or not right.any():
        raise InputError("all values are right, or all are wrong: platt has nothing to fit; use --method isotonic")
    logits = np.array([[clipped_logit(c)] for c in confidence.tolist()])
    fitted = LogisticRegression(C=np.inf).fit(logits, right)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope < 0:
        raise InputError(
            f"values of higher confidence are right less often (slope {slope:.2f} on {len(right)} values): "
            "these confidences say nothing, and no curve can help"
        )
    return Platt(slope=slope, intercept=intercept)


def cross_validated(method: Method, confidence: Floats, right: Bools, offers: NDArray[np.int64]) -> Floats:
    """Each confidence under a curve that was fitted without the value's offer, in `FOLDS` folds."""
    from sklearn.model_selection import GroupKFold

    out = np.empty_like(confidence)
    for fit, held_out in GroupKFold(FOLDS).split(confidence, groups=offers):
        curve = fit_curve(method, confidence[fit], right[fit])
        out[held_out] = [curve.at(c) for c in confidence[held_out].tolist()]
    return out


def calibrate(values: Cells, method: Method, about: FittedOn) -> Fit:
    """Fit on judged values (`eval.confidence.judged`). Raises InputError where they are too few."""
    confidence, right = values.confidence, correct(values)
    if len(confidence) < FEWEST or len(np.unique(values.offer)) < FOLDS:
        raise InputError(
            f"{len(confidence)} values with a confidence that gold can judge: too few to fit a curve; "
            f"give at least {FEWEST}, of {FOLDS} offers or more"
        )
    held_out = cross_validated(method, confidence, right, values.offer)
    calibration = Calibration(
        curve=fit_curve(method, confidence, right),
        fitted_on=about,
        error_before=calibration_error(confidence, right),
        error_after=calibration_error(held_out, right),
    )
    return Fit(calibration, confidence, held_out, right)


def about_run(run: Run, values: Cells) -> FittedOn:
    """What a curve is fitted on. Raises InputError for a run whose confidences were calibrated already."""
    made = maker_of(run.folder / "predictions.jsonl")
    if not made:
        raise InputError(f"{run.folder}: no record says which model made it; every offer failed")
    if made["calibration"]:
        raise InputError(f"{run.folder}: its confidences are calibrated already; run with --calibration none")
    data = run.scores["data"]
    return FittedOn(
        data=data["name"],
        split=data["split"],
        offers=data["offers"],
        values=len(values.offer),
        model=made["model"],
        adapter=made["adapter"],
        template=made["template"],
        demonstrations=run.scores["inputs"].get("k", 0),
    )


def file_for(settings: Settings, about: FittedOn | None = None) -> Path:
    """The file in the folder of the settings' model. Raises InputError where that is no folder, or not the model of `about`."""
    file = calibration_file(settings)
    if file is None:
        raise InputError("--out is missing: the model is no folder in which calibration.json could stand")
    if about and model_of(settings) != (about.model, about.adapter):
        raise InputError(f"the run is one of {about.model}: --out says where its calibration goes")
    return file


def write(calibration: Calibration, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; name another file with --out") from error


def sections(fit: Fit) -> list[Section]:
    """The calibration error and what can be accepted before and after, and both figures."""
    series = {"before": fit.confidence, "after": fit.held_out}
    rows = [
        (
            name,
            f"{calibration_error(said, fit.right):.3f}",
            100 * coverage_at(0.95, said, fit.right),
            100 * coverage_at(0.98, said, fit.right),
        )
        for name, said in series.items()
    ]
    about = fit.calibration.fitted_on
    note = (
        f"{about.values} values of {about.offers} offers ({about.data} {about.split}), {100 * fit.right.mean():.1f} % right; "
        f"{about.model}, {about.template}, {fit.calibration.curve.method}. After: by curves that were fitted without the "
        f"value's offer, in {FOLDS} folds."
    )
    return [
        Section(
            "Calibration",
            note,
            ("confidence", "calibration error", "accepted at 95 % precision, %", "at 98 %, %"),
            rows,
        ),
        Section(
            "Reliability",
            "Of the values of a confidence, so many are right. A point is a tenth of the values; bars are 95 % intervals.",
            figure=plots.reliability({name: reliability(said, fit.right) for name, said in series.items()}),
        ),
        Section(
            "Risk and coverage",
            "Errors among the values that are accepted, as the threshold falls from left to right.",
            figure=plots.risk_coverage({name: risk_coverage(said, fit.right) for name, said in series.items()}),
        ),
    ]
