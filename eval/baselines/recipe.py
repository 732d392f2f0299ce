"""Hyper-parameters, and the part of the training labels that is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from extractor.records import LabelledOffer


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters; the defaults are those of the plain tagger, from which a search starts."""

    epochs: int = 15
    learning_rate: float = 3e-4
    batch: int = 16
    dropout: float = 0.1
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of all steps
    layers: int | None = (
        None  # of the encoder that are trained, from the top; 0 freezes it, None trains all and embeddings
    )
    patience: int = 5  # epochs without a better score on the held-out part
    held_out: float = 0.1  # of the training offers, for early stopping; below 50 offers, none and all epochs
    seed: int = 0
    pooling: Literal["mean", "max"] = "mean"  # linear_probe: of the pieces of a word or a text
    penalty: float = 1.0  # linear_probe: weight of the squared coefficients


def dropouts(recipe: Recipe) -> dict[str, float]:
    """The part of a model's configuration. None in attention: it would take a slow path there, a third of a CPU's time."""
    return {"hidden_dropout_prob": recipe.dropout, "attention_probs_dropout_prob": 0.0}


def divided(
    training: Sequence[LabelledOffer], share: float, seed: int
) -> tuple[list[LabelledOffer], list[LabelledOffer]]:
    """The offers to learn from and the held-out ones, drawn by the seed; of less than 50 offers, none is held out."""
    shuffled = Random(seed).sample(list(training), len(training))
    n = int(len(shuffled) * share) if len(shuffled) >= 50 else 0
    return shuffled[n:], shuffled[:n]
