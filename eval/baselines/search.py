"""Search for hyper-parameters with Optuna (TPE), on a part of the training labels that is held out from every trial.

The first trial is the recipe to start from, so that the result is none the worse on that part. Trials are kept in
`<out>/search.db`: a search that was killed goes on, and one that has spent its budget only reports.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.baselines import baseline_class, train_baseline
from eval.baselines.recipe import Recipe, divided
from eval.baselines.training import extraction_f1
from extractor.errors import InputError
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema

if TYPE_CHECKING:
    from optuna import Trial

SHARE = 0.2  # of the training offers, held out from all trials


def _tuned(trial: "Trial", start: Recipe) -> Recipe:
    return replace(
        start,
        learning_rate=trial.suggest_float("learning_rate", 3e-5, 1e-3, log=True),
        epochs=trial.suggest_int("epochs", 2, max(30, start.epochs)),
        batch=trial.suggest_categorical("batch", [8, 16, 32]),
        dropout=trial.suggest_float("dropout", 0.0, 0.3),
        weight_decay=trial.suggest_float("weight_decay", 0.0, 0.1),
        warmup=trial.suggest_float("warmup", 0.0, 0.2),
    )


def _probed(trial: "Trial", start: Recipe) -> Recipe:
    return replace(
        start,
        pooling=trial.suggest_categorical("pooling", ["mean", "max"]),  # type: ignore[arg-type]
        penalty=trial.suggest_float("penalty", 1e-2, 1e4, log=True),
    )


SPACES: dict[str, Callable[["Trial", Recipe], Recipe]] = {
    "token_classification": _tuned,
    "question_answering": _tuned,
    "classification": _tuned,
    "linear_probe": _probed,
}


def search(
    name: str,
    training: Sequence[LabelledOffer],
    schemas: Sequence[AttributeSchema],
    out: Path,
    encoder: str = "minilm",
    start: Recipe | None = None,
    trials: int | None = None,
    minutes: float | None = None,
) -> Recipe:
    """The best recipe found within `trials` or `minutes`, whichever ends first, for training on all offers with none held out; a
    trial that was begun is finished. Writes
    `<out>/search.json`: trials, minutes, best parameters, their score, and all trials.

    Raises InputError where there is nothing to search, no budget, or too few offers to hold any out.
    """
    import optuna

    if name not in SPACES:
        raise InputError(f"{name} has no hyper-parameters; a search serves {', '.join(SPACES)}")
    if trials is None and minutes is None:
        raise InputError("a search needs a budget: trials or minutes")
    start = start or baseline_class(name).RECIPE
    learned, held_out = divided(training, SHARE, start.seed)
    if not held_out:
        raise InputError(f"{len(training)} training offers are too few to hold any out for a search; it takes 50")

    def objective(trial: "Trial") -> float:
        recipe = replace(SPACES[name](trial, start), held_out=0.0)
        folder = out / "trial"
        predictor = train_baseline(name, learned, schemas, folder, encoder, recipe)
        shutil.rmtree(folder)
        return extraction_f1(held_out, predictor.extract(held_out), schemas)

    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'search.db'}",
        study_name=_key(name, training, schemas, encoder, start),
        direction="maximize",
        load_if_exists=True,
    )
    # A search that goes on draws anew, and not what it drew first.
    study.sampler = optuna.samplers.TPESampler(seed=start.seed + len(study.trials))
    if not any(t.state.name in ("COMPLETE", "WAITING") for t in study.trials):
        study.enqueue_trial({k: v for k, v in asdict(start).items() if k in _parameters(name)})
    while _left(study, trials, minutes):
        study.optimize(objective, n_trials=1)
    result = _result(study)
    (out / "search.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return replace(start, held_out=0.0, **result["best"])


def _parameters(name: str) -> set[str]:
    import optuna

    asked = optuna.trial.FixedTrial({**asdict(Recipe())})
    SPACES[name](asked, Recipe())  # type: ignore[arg-type]
    return set(asked.distributions)


def _key(
    name: str, training: Sequence[LabelledOffer], schemas: Sequence[AttributeSchema], encoder: str, start: Recipe
) -> str:
    """Changes with everything that a score depends on but the searched parameters."""
    content = hashlib.sha256(json.dumps([name, encoder, asdict(start)]).encode())
    for part in (*training, *schemas):
        content.update(part.model_dump_json().encode())
    return content.hexdigest()[:16]


def _finished(study: Any) -> list[Any]:
    return [t for t in study.trials if t.state.name == "COMPLETE"]


def _minutes(study: Any) -> float:
    return float(sum(t.duration.total_seconds() for t in _finished(study))) / 60


def _left(study: Any, trials: int | None, minutes: float | None) -> bool:
    finished = _finished(study)
    return (trials is None or len(finished) < trials) and (minutes is None or _minutes(study) < minutes)


def _result(study: Any) -> dict[str, Any]:
    return {
        "trials": len(_finished(study)),
        "minutes": round(_minutes(study), 2),
        "score": study.best_value,
        "best": study.best_params,
        "all": [{"score": t.value, **t.params} for t in _finished(study)],
    }
