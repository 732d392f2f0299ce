"""Whether an adapter has earned its place: on held-out offers it must beat what serves its categories now, and prompting."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval import metrics
from eval.datasets import Dataset
from eval.run import inputs_of, run, shared_engine
from extractor.adapters import LABELS, Adapter, Registry
from extractor.config import Settings
from extractor.demonstrations import check_leaks
from extractor.errors import AdapterError, InputError
from extractor.io import read_labelled
from extractor.schema import category_key

LEVEL = 0.05  # of the paired test
LEAST = 30  # held-out offers: resamples of fewer say too little of others


@dataclass(frozen=True)
class Rival:
    """What the adapter is compared with: F1 by the published protocol in per cent; difference, its 95 % interval and p-value."""

    name: str
    f1: float
    difference: float
    low: float
    high: float
    p: float

    @property
    def beaten(self) -> bool:
        return self.difference > 0 and self.p < LEVEL


def rivals(
    registry: Registry, adapter: Adapter, dataset: Dataset, settings: Settings, runs: Path
) -> tuple[float, list[Rival]]:
    """F1 of the adapter, and what it has to beat: zero-shot, few-shot with the labels that it learned from, and the adapter that
    serves one of its categories now. All see the same offers. Raises AdapterError, InputError."""
    if adapter.card is None:
        raise AdapterError(f"{adapter.folder}: no card, so it is not known what it was trained for")
    labels = read_labelled(adapter.folder / LABELS)
    check_leaks(labels, dataset.offers)
    own = {category_key(c): reference for c, reference in adapter.card.schemas.items()}
    if strangers := [o for o in dataset.offers if category_key(o.category) not in own]:
        raise InputError(
            f"{dataset.name}: offer {strangers[0].id!r} is of category {strangers[0].category!r}, which {adapter.reference} does"
            f" not serve; it serves {', '.join(adapter.card.schemas)}"
        )
    for schema in dataset.schemas:
        trained = own.get(category_key(schema.category), schema.reference)
        if trained != schema.reference:
            raise InputError(
                f"{dataset.name}: asks for {schema.reference}, and {adapter.reference} was trained for {trained}; pass the"
                " --schema of its training"
            )
    alone = settings.model_copy(update={"adapter": None, "adapters": None})
    arms: list[tuple[str, Settings, Sequence[Any]]] = [
        (adapter.reference, alone.model_copy(update={"adapter": adapter.folder}), []),
        ("zero-shot", alone, []),
        ("few-shot", alone, labels),
    ]
    for reference in dict.fromkeys(r for c, r in registry.serving().items() if category_key(c) in own):
        if reference != adapter.reference:
            current = registry.find(reference)
            arms.append((reference, alone.model_copy(update={"adapter": current.folder}), []))
    samples, scores = [], []
    with shared_engine(settings.model_copy(update={"adapter": adapter.folder})) as opened:
        for _, chosen, shown in arms:
            made = run(
                partial(opened, chosen, dataset.schemas, shown),
                dataset,
                inputs_of(chosen, dataset, shown),
                runs,
                training=labels,
            )
            cells = metrics.tabulate(dataset.offers, made.predictions, dataset.asked, labels)
            samples.append(metrics.bootstrap(cells)["published"])
            scores.append(metrics.score(metrics.tallies(cells)["published"]).f1)
    found = [
        Rival(name, f1, scores[0] - f1, *metrics.paired(theirs, samples[0]))
        for (name, _, _), f1, theirs in zip(arms[1:], scores[1:], samples[1:], strict=True)
    ]
    return scores[0], found
