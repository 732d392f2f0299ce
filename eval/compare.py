"""Systems side by side at the same number of labels: prompting, baselines that learn, and adapters.

    shelfwise eval compare --data sets/ae_110k --data sets/oa_mine --html compare.html
    shelfwise eval compare --data sets/ae_110k --quick

An *arm* is one system that was given some labels (a budget, drawn by a seed) and is scored on the validation split. Every arm is
a run of `eval.run`, so what is finished is never done again, and a killed comparison goes on where it stopped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from eval import metrics
from eval.baselines import baseline_class, train_baseline
from eval.baselines.encoder import encoder_folder
from eval.baselines.recipe import Recipe
from eval.datasets import Dataset
from eval.run import OpenExtractor, Predictor, Run, code_hash, content_hash, folder_hash, inputs_of, run
from extractor.config import Settings
from extractor.errors import InputError
from extractor.records import LabelledOffer

PROMPTED = ("zero-shot", "few-shot")
TRAINED = ("token_classification", "question_answering", "linear_probe")
SYSTEMS = (*PROMPTED, "lookup", *TRAINED)
USUAL = tuple(
    s for s in SYSTEMS if s != "question_answering"
)  # a question an attribute takes ten times as long as a tagger
BUDGETS = (0, 10, 30, 100, 300, None)  # None: all labels
ALL = "all"
STEPS = 200  # at least, of a trained baseline: fifteen epochs over ten labels would be fifteen steps


@dataclass(frozen=True)
class Arm:
    """`budget` labels (None: all) drawn by `seed`; `labels` is how many there were."""

    system: str
    budget: int | None
    seed: int
    labels: int
    run: Run
    cells: metrics.Cells
    samples: metrics.Floats  # bootstrap F1 of the published protocol


class Learner(Protocol):
    """A system of another room that learns from labels."""

    def inputs(self, dataset: Dataset, labels: Sequence[LabelledOffer], seed: int, epochs: float) -> dict[str, Any]:
        """All that its records depend on, beside the data."""
        ...

    def trained(
        self, dataset: Dataset, labels: Sequence[LabelledOffer], seed: int, epochs: float
    ) -> AbstractContextManager[Predictor]: ...


def named(systems: str | None, learners: Mapping[str, Learner] | None = None) -> list[str]:
    """Systems by their names with commas; USUAL by default. Raises InputError."""
    known = (*SYSTEMS, *(learners or ()))
    names = [n.strip() for n in systems.split(",")] if systems else list(USUAL)
    if unknown := [n for n in names if n not in known]:
        raise InputError(f"--systems: unknown system {unknown[0]!r}; there are {', '.join(known)}")
    return names


def budgets_of(text: str) -> list[int | None]:
    """Numbers of labels, from "0,30,all". Raises InputError."""
    try:
        return [None if part.strip() == ALL else int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--budgets {text!r}: write numbers and `all` with commas, as 0,30,all") from error


def drawn(training: Dataset, budget: int | None, seed: int) -> list[LabelledOffer]:
    """`budget` labelled offers of the training split; a larger budget holds the smaller one of the same seed."""
    offers = list(training.offers)
    return offers if budget is None else Random(seed).sample(offers, len(offers))[:budget]


def plan(
    systems: Sequence[str], budgets: Sequence[int | None], seeds: int, labels: int
) -> Iterator[tuple[str, int | None, int]]:
    """(system, budget, seed) of every arm. Only zero-shot goes without labels, and only what trains, or draws, has seeds."""
    for system in systems:
        for budget in budgets:
            if (budget == 0) != (system == "zero-shot") or (budget is not None and budget > labels):
                continue
            fixed = budget == 0 or (budget is None and system in (*PROMPTED, "lookup"))
            yield from ((system, budget, seed) for seed in range(1 if fixed else seeds))


def compare(
    training: Dataset,
    validation: Dataset,
    arms: Sequence[tuple[str, int | None, int]],
    settings: Settings,
    extractor: OpenExtractor,
    out: Path,
    *,
    encoder: str = "minilm",
    epochs: float = 1.0,
    learners: Mapping[str, Learner] | None = None,
    progress: Callable[[str], None] = lambda arm: None,
) -> list[Arm]:
    """Run every arm. `extractor` is that of `eval.run.shared_engine`; `epochs` multiplies those of the systems' own recipes;
    `learners` are systems of other rooms."""
    done = []
    for system, budget, seed in arms:
        progress(f"{system}, {ALL if budget is None else budget} labels, seed {seed}")
        labels = drawn(training, budget, seed)
        opened: Callable[[], AbstractContextManager[Predictor]]
        if system in PROMPTED:
            shown = labels if system == "few-shot" else []
            opened = partial(extractor, settings, validation.schemas, shown)
            inputs = inputs_of(settings, validation, shown)
        elif learners and system in learners:
            opened = partial(learners[system].trained, validation, labels, seed, epochs)
            inputs = {
                "data": f"{validation.name} {validation.split} {validation.fingerprint}",
                "system": system,
                "labels": content_hash(o.model_dump_json() for o in labels),
                **learners[system].inputs(validation, labels, seed, epochs),
            }
        else:
            recipe = _recipe(system, labels, seed, epochs)
            opened = partial(_baseline, system, validation, labels, encoder, recipe)
            inputs = _baseline_inputs(system, validation, labels, encoder, recipe)
        # Seen and unseen values are told apart by the labels that the arm was given.
        made = run(opened, validation, inputs, out, training=labels)
        cells = metrics.tabulate(validation.offers, made.predictions, validation.asked, labels)
        done.append(Arm(system, budget, seed, len(labels), made, cells, metrics.bootstrap(cells)["published"]))
    return done


def _recipe(system: str, labels: Sequence[LabelledOffer], seed: int, epochs: float) -> Recipe:
    """The baseline's own with `epochs` times as many, and as many more as make that share of STEPS steps; all labels are learned
    from, none held out."""
    own = baseline_class(system).RECIPE
    rows = len(labels)
    if system == "question_answering":
        rows = sum(len(o.attributes) + len(o.absent) for o in labels)
    least = ceil(epochs * STEPS * own.batch / max(rows, 1))
    return replace(own, epochs=max(1, round(own.epochs * epochs), least), held_out=0.0, seed=seed)


@contextmanager
def _baseline(
    system: str, dataset: Dataset, labels: list[LabelledOffer], encoder: str, recipe: Recipe
) -> Iterator[Predictor]:
    with TemporaryDirectory() as folder:  # its predictions are kept, its weights are not
        yield train_baseline(system, labels, dataset.schemas, Path(folder), encoder=encoder, recipe=recipe)


def _baseline_inputs(
    system: str, dataset: Dataset, labels: Sequence[LabelledOffer], encoder: str, recipe: Recipe
) -> dict[str, Any]:

    trained = (
        {"encoder": folder_hash(str(encoder_folder(encoder))), "recipe": asdict(recipe)} if system in TRAINED else {}
    )
    return {
        "data": f"{dataset.name} {dataset.split} {dataset.fingerprint}",
        "system": system,
        "labels": content_hash(o.model_dump_json() for o in labels),
        "code": code_hash("eval.baselines"),
        **trained,
    }
