"""Closed vocabularies (product category, colour, gender, neckline) from the text of the offer, by an encoder with a head for each
attribute: softmax and cross-entropy over its values, mean squared error for numbers.

    shelfwise eval baseline classification --data ../shared/data/implicitave --out runs/classes --layers 2

`--layers 0` freezes the encoder, `--layers N` trains its top N layers, without it everything is trained. The classes of an
attribute are the values of its training labels; so also those of a text attribute, which is answered with values that were
taught. The text is cut at 256 pieces, the description first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from eval.baselines import folder
from eval.baselines.bio import Floats
from eval.baselines.closed import Target, answers, targets
from eval.baselines.encoder import encoder_folder
from eval.baselines.recipe import Recipe, divided, dropouts
from eval.baselines.spans import record, schema_for
from eval.baselines.training import Row, device, extraction_f1, fit, outputs, row
from eval.baselines.windows import Window, offer_windows
from extractor.errors import InputError
from extractor.records import AttributeValue, Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema


class Classification:
    """A trained classifier: the outputs of the model are those of the targets, one after the other."""

    RECIPE = Recipe(learning_rate=1e-4)

    def __init__(self, model: Any, tokenizer: Any, schemas: Sequence[AttributeSchema], heads: Sequence[Target]) -> None:
        self.model, self.tokenizer, self.schemas, self.heads = model.to(device()), tokenizer, schemas, list(heads)

    @classmethod
    def train(
        cls,
        training: Sequence[LabelledOffer],
        schemas: Sequence[AttributeSchema],
        out: Path,
        encoder: str = "minilm",
        recipe: Recipe | None = None,
    ) -> Self:
        """Train on labelled offers, and write a folder that `load` reads."""
        recipe = recipe or cls.RECIPE
        heads = targets(training, schemas, with_text=True)
        if not heads:
            raise InputError("the training offers have no values to learn")
        source = encoder_folder(encoder)
        torch.manual_seed(recipe.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=sum(t.width for t in heads), **dropouts(recipe)
        )
        self = cls(model, AutoTokenizer.from_pretrained(source), schemas, heads)
        learned, held_out = divided(training, recipe.held_out, recipe.seed)
        fit(
            model,
            [r for o in learned if not all(np.isnan((r := self._row(o))["labels"]))],
            [self._row(o) for o in held_out],
            lambda made: extraction_f1(held_out, self._records(held_out, made), schemas),
            self._collated,
            out,
            recipe,
            self._loss,
        )
        model.save_pretrained(out / "model")
        self.tokenizer.save_pretrained(out / "model")
        described = [t.to_dict() for t in heads]
        folder.write(out, "classification", schemas, encoder=encoder, recipe=vars(recipe), targets=described)
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `train` wrote."""
        content, model = folder.read(path), path / "model"
        return cls(
            AutoModelForSequenceClassification.from_pretrained(model),
            AutoTokenizer.from_pretrained(model),
            content["schemas"],
            [Target.from_dict(t) for t in content["targets"]],
        )

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        return self._records(offers, outputs(self.model, self.tokenizer, [self._window(o) for o in offers]))

    def _window(self, offer: ProductOffer) -> Window:
        return offer_windows(self.tokenizer, offer)[0]

    def _row(self, offer: LabelledOffer) -> Row:
        labels = [np.nan if (label := head.encoded(offer)) is None else label for head in self.heads]
        return row(self._window(offer), labels)

    def _collated(self, rows: list[Row]) -> Any:
        inputs = self.tokenizer.pad([{k: v for k, v in r.items() if k != "labels"} for r in rows], return_tensors="pt")
        return inputs | {"labels": torch.tensor([r["labels"] for r in rows])}

    def _loss(self, made: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """Mean over the known labels of a batch; unknown ones are nan."""
        parts, begin = [], 0
        for place, head in enumerate(self.heads):
            known = ~labels[:, place].isnan()
            if known.any():
                logits, wanted = made.logits[known, begin : begin + head.width], labels[known, place]
                if head.classes:
                    parts.append(torch.nn.functional.cross_entropy(logits, wanted.long(), reduction="none"))
                else:
                    parts.append(torch.nn.functional.mse_loss(logits[:, 0], wanted.to(logits), reduction="none"))
            begin += head.width
        return torch.cat(parts).mean() if parts else made.logits.sum() * 0.0

    def _records(self, offers: Sequence[ProductOffer], logits: Sequence[Floats]) -> list[Extraction | Failure]:
        return [self._record(offer, scores) for offer, scores in zip(offers, logits, strict=True)]

    def _record(self, offer: ProductOffer, logits: Floats) -> Extraction:
        schema, begin = schema_for(offer, self.schemas), 0
        asked = {a.name: a for a in schema.attributes}
        values: dict[str, list[AttributeValue]] = {}
        for head in self.heads:
            if attribute := asked.get(head.attribute):
                values[head.attribute] = answers(attribute, head, logits[begin : begin + head.width], offer)
            begin += head.width
        return record(offer, schema, values, "classification@1")
