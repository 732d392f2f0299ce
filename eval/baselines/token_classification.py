"""BIO tagging with a BERT encoder, the classic recipe (AutoModelForTokenClassification; see `training`).

    shelfwise eval baseline token_classification --data ../shared/data/ae_110k --out runs/bert

A word has one label, so that of two attributes with overlapping values the longer one is learned. Labels of attributes that
an offer's schema does not ask for are masked before decoding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from transformers import DataCollatorForTokenClassification

from eval.baselines.bio import Floats, averaged, decoded, labels_of, learn_trims, softmax, tag, trimmed
from eval.baselines.recipe import Recipe, divided
from eval.baselines.spans import attribute_counts, gold_spans, record, schema_for, span_values
from eval.baselines.tagger import Tagger
from eval.baselines.training import IGNORED, Row, extraction_f1, fit, outputs, row
from eval.baselines.windows import Window, offer_windows
from extractor.errors import InputError
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema


class TokenClassification(Tagger):
    """A trained tagger. Its labels are "O" and B-/I- of each attribute in the training labels."""

    NAME = "token_classification"
    RECIPE = Recipe()

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
        counts = attribute_counts(training)
        if not counts:
            raise InputError("the training offers have no values to learn")
        tagger = cls.untrained(labels_of(sorted(counts)), schemas, encoder, recipe)
        tokenizer = tagger.tokenizer
        learned, held_out = divided(training, recipe.held_out, recipe.seed)
        examples = [(o.texts(), offer_windows(tokenizer, o), gold_spans(o, counts)) for o in learned]
        tagger.trims = learn_trims(examples)
        shown = [(i, window) for i, offer in enumerate(held_out) for window in offer_windows(tokenizer, offer)]
        spans = [gold_spans(offer, counts) for offer in held_out]
        fit(
            tagger.model,
            [tagger._row(w, found) for _, windows, found in examples for w in windows],
            [tagger._row(w, spans[i]) for i, w in shown],
            lambda made: extraction_f1(held_out, tagger._records(held_out, shown, made), schemas),
            DataCollatorForTokenClassification(tokenizer),
            out,
            recipe,
        )
        tagger.save(out, encoder, recipe)
        return tagger

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        windows = [(i, window) for i, offer in enumerate(offers) for window in offer_windows(self.tokenizer, offer)]
        return self._records(offers, windows, outputs(self.model, self.tokenizer, [w for _, w in windows]))

    def _row(self, window: Window, spans: Sequence[Any]) -> Row:
        tags = [IGNORED] * len(window.words)
        for position, word in window.first_pieces():
            tags[position] = self.model.config.label2id[tag(word, spans)]
        return row(window, tags)

    def _records(
        self, offers: Sequence[ProductOffer], windows: list[tuple[int, Window]], logits: list[Floats]
    ) -> list[Extraction | Failure]:
        of_offer: list[list[tuple[Window, Floats]]] = [[] for _ in offers]
        for (i, window), scores in zip(windows, logits, strict=True):
            of_offer[i].append((window, scores))
        return list(map(self._record, offers, of_offer))

    def _record(self, offer: ProductOffer, scored: list[tuple[Window, Floats]]) -> Extraction:
        schema, texts = schema_for(offer, self.schemas), offer.texts()
        asked = {a.name for a in schema.attributes}
        allowed = np.array([label == "O" or label[2:] in asked for label in self.labels])
        words = {word: softmax(logits, allowed) for word, logits in averaged(scored).items()}
        spans = [trimmed(span, texts[span.field], self.trims) for span in decoded(words, self.labels)]
        spans.sort(key=lambda s: -(s.confidence or 0.0))
        return record(offer, schema, span_values(offer, spans), "token_classification@1")
