"""What both taggers are: an encoder that gives words labels, with what was learned of values that are parts of words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from eval.baselines import folder
from eval.baselines.bio import Trims
from eval.baselines.encoder import encoder_folder
from eval.baselines.recipe import Recipe, dropouts
from eval.baselines.training import device
from extractor.schema import AttributeSchema


class Tagger:
    """`labels` are those of the model's outputs, in order; `trims` as in `bio`."""

    NAME: ClassVar[str]

    def __init__(self, model: Any, tokenizer: Any, schemas: Sequence[AttributeSchema], trims: Trims) -> None:
        self.model, self.tokenizer, self.schemas, self.trims = model.to(device()), tokenizer, schemas, trims
        self.labels: list[str] = [model.config.id2label[i] for i in range(model.config.num_labels)]

    @classmethod
    def untrained(cls, labels: Sequence[str], schemas: Sequence[AttributeSchema], encoder: str, recipe: Recipe) -> Self:
        """The encoder with a fresh head, drawn by the recipe's seed."""
        source = encoder_folder(encoder)
        torch.manual_seed(recipe.seed)
        model = AutoModelForTokenClassification.from_pretrained(
            source,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            **dropouts(recipe),
        )
        return cls(model, AutoTokenizer.from_pretrained(source), schemas, {})

    def save(self, out: Path, encoder: str, recipe: Recipe) -> None:
        """Write a folder that `load` reads."""
        self.model.save_pretrained(out / "model")
        self.tokenizer.save_pretrained(out / "model")
        folder.write(out, self.NAME, self.schemas, encoder=encoder, recipe=vars(recipe), trims=self.trims)

    @classmethod
    def load(cls, path: Path) -> Self:
        content, model = folder.read(path), path / "model"
        return cls(
            AutoModelForTokenClassification.from_pretrained(model),
            AutoTokenizer.from_pretrained(model),
            content["schemas"],
            content["trims"],
        )
