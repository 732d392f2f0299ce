"""Search for an adapter's hyper-parameters with Optuna (TPE), pruned by what each epoch gives on labels held out from all trials.

    shelfwise finetune search --data labels.jsonl --out runs/search --trials 20

The first trial is the recipe that `finetune lora` has by itself, so that the result is none the worse on that part. Trials are
kept in `<out>/search.db`: a search that was killed goes on, and one that has spent its budget only reports.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractor.config import Settings
from extractor.errors import InputError
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema
from finetune.lora import Recipe, tune

if TYPE_CHECKING:
    from optuna import Trial

SHARE = 0.2  # of the labels, held out from all trials
LEAST = 50  # labels: a fifth of fewer does not tell trials apart
AUGMENTED = ("", "swap", "swap,order,drop", "swap,order,drop,case,typos,synonyms")


def _drawn(trial: "Trial", start: Recipe) -> Recipe:
    rank = trial.suggest_categorical("rank", [4, 8, 16, 32, 64])
    return replace(
        start,
        rank=rank,
        alpha=2.0 * rank,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        warmup=trial.suggest_float("warmup", 0.0, 0.2),
        dropout=trial.suggest_float("dropout", 0.0, 0.2),
        epochs=trial.suggest_int("epochs", 2, 2 * start.epochs),
        augment=tuple(filter(None, str(trial.suggest_categorical("augment", list(AUGMENTED))).split(","))),
        held_out=SHARE,
    )


def _own(start: Recipe) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(start).items() if k in ("rank", "learning_rate", "warmup", "dropout", "epochs")}
    return kept | {"augment": ",".join(start.augment)}


def search(
    labels: Sequence[LabelledOffer],
    schemas: Sequence[AttributeSchema],
    settings: Settings,
    out: Path,
    start: Recipe,
    trials: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Spend `trials` or `minutes`, whichever ends first; a trial that was begun is finished or pruned. Writes and returns
    `<out>/search.json`: what was spent, the best parameters and their F1, the range of learning rates that came within a point
    of it, and all trials. Raises InputError without a budget, or where too few labels are left to hold any out."""
    import optuna

    if trials is None and minutes is None:
        raise InputError("a search needs a budget: --trials or --minutes")
    if len(labels) < LEAST:
        raise InputError(f"{len(labels)} labels are too few to hold any out for a search; it takes {LEAST}")

    def objective(trial: "Trial") -> float:
        def scored(step: int, f1: float) -> None:
            trial.report(f1, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            _, card = tune(labels, schemas, settings, out / "trial", _drawn(trial, start), "none", scored)
        finally:
            shutil.rmtree(out / "trial", ignore_errors=True)
        return float(card.scores["f1"])

    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'search.db'}",
        study_name=_key(labels, schemas, settings, start),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        load_if_exists=True,
    )
    # A search that goes on draws anew, and not what it drew first.
    study.sampler = optuna.samplers.TPESampler(seed=start.seed + len(study.trials))
    if not study.trials:
        study.enqueue_trial(_own(start))
    while _left(study, trials, minutes):
        study.optimize(objective, n_trials=1)
    found = _result(study)
    (out / "search.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _key(labels: Sequence[LabelledOffer], schemas: Sequence[AttributeSchema], settings: Settings, start: Recipe) -> str:
    """Changes with everything that a score depends on but the searched parameters."""
    content = hashlib.sha256(json.dumps([settings.model, settings.template, settings.k, asdict(start)]).encode())
    for part in (*labels, *schemas):
        content.update(part.model_dump_json().encode())
    return content.hexdigest()[:16]


def _spent(study: Any) -> list[Any]:
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]


def _minutes(study: Any) -> float:
    return float(sum(t.duration.total_seconds() for t in _spent(study))) / 60


def _left(study: Any, trials: int | None, minutes: float | None) -> bool:
    return (trials is None or len(_spent(study)) < trials) and (minutes is None or _minutes(study) < minutes)


def _result(study: Any) -> dict[str, Any]:
    good = [t for t in _spent(study) if t.state.name == "COMPLETE" and t.value >= study.best_value - 1.0]
    rates = sorted(t.params["learning_rate"] for t in good)
    return {
        "trials": len(_spent(study)),
        "pruned": sum(t.state.name == "PRUNED" for t in study.trials),
        "minutes": round(_minutes(study), 2),
        "f1": study.best_value,
        "best": study.best_params,
        "learning_rates": [rates[0], rates[-1]],
        "all": [{"f1": t.value, "state": t.state.name.lower(), **t.params} for t in _spent(study)],
    }
