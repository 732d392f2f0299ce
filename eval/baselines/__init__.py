"""Systems to compare with. Each learns from labelled offers and then has the Extractor's own method, `extract(offers)`.

predictor = train_baseline("token_classification", training, schemas, Path("runs/bert"))
predictor = open_baseline(Path("runs/bert"))
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from extractor.errors import InputError
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema

if TYPE_CHECKING:
    from eval.baselines.recipe import Recipe

BASELINES = {
    "lookup": "eval.baselines.lookup:Lookup",
    "token_classification": "eval.baselines.token_classification:TokenClassification",
    "question_answering": "eval.baselines.question_answering:QuestionAnswering",
    "linear_probe": "eval.baselines.linear_probe:LinearProbe",
    "classification": "eval.baselines.classification:Classification",
}


class Baseline(Protocol):
    """`train` writes a folder that `load` reads. Without a recipe, each trains by its own `RECIPE`."""

    RECIPE: "Recipe"
    schemas: Sequence[AttributeSchema]

    @classmethod
    def train(
        cls,
        training: Sequence[LabelledOffer],
        schemas: Sequence[AttributeSchema],
        out: Path,
        encoder: str = "minilm",
        recipe: "Recipe | None" = None,
    ) -> Self: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]: ...


def baseline_class(name: str) -> type[Baseline]:
    """The class by its name. Raises InputError for an unknown one."""
    if name not in BASELINES:
        raise InputError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    module, _, attribute = BASELINES[name].partition(":")
    found: type[Baseline] = getattr(import_module(module), attribute)
    return found


def train_baseline(
    name: str,
    training: Sequence[LabelledOffer],
    schemas: Sequence[AttributeSchema],
    out: Path,
    encoder: str = "minilm",
    recipe: "Recipe | None" = None,
) -> Baseline:
    """Train by name, and write a folder that `open_baseline` reads."""
    return baseline_class(name).train(training, schemas, out, encoder, recipe)


def open_baseline(folder: Path) -> Baseline:
    """The trained baseline that a folder holds. Raises InputError where it holds none."""
    from eval.baselines.folder import read

    return baseline_class(read(folder)["baseline"]).load(folder)
