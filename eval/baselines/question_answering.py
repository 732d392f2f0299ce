"""Extraction as question answering: the attribute's name and description are the question, title and description of the offer
the context, so that attributes without a training label can be asked. After AVEQA (Wang et al. 2020, Learning to Extract
Attribute Value from Product via Question Answering, KDD, https://doi.org/10.1145/3394486.3403047), with B/I/O labels of the
context's words in place of one begin and one end, since an attribute can have several values.

    shelfwise eval baseline question_answering --data ../shared/data/oa_mine --out runs/qa

The first piece, [CLS], carries the no-answer label: O for no answer, B for one. Attributes are asked apart from each other, so
that their values may overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Self

from transformers import DataCollatorForTokenClassification

from eval.baselines.bio import Floats, Trims, averaged, decoded, learn_trims, softmax, tag, trimmed
from eval.baselines.recipe import Recipe, divided
from eval.baselines.spans import Span, attribute_counts, gold_spans, record, schema_for, span_values
from eval.baselines.tagger import Tagger
from eval.baselines.training import IGNORED, Row, extraction_f1, fit, outputs, row
from eval.baselines.windows import Window, question_windows
from extractor.errors import InputError
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema

LABELS = {"O": 0, "B": 1, "I": 2}
LONGEST = 300  # characters of a question


@dataclass(frozen=True)
class Asked:
    """One window of one question; `offer` is a place in the list of offers."""

    offer: int
    attribute: str
    window: Window


class QuestionAnswering(Tagger):
    """A trained model of questions."""

    NAME = "question_answering"
    RECIPE = Recipe(epochs=4)  # an epoch asks each offer some five to ten questions

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
        if not attribute_counts(training):
            raise InputError("the training offers have no values to learn")
        self = cls.untrained(list(LABELS), schemas, encoder, recipe)
        learned, held_out = divided(training, recipe.held_out, recipe.seed)
        questions = list(self._questions(learned, training_questions(learned, schemas, recipe.seed)))
        self.trims = self._learned_trims(learned, questions)
        shown = list(self._questions(held_out, [schema_for(o, schemas).attributes for o in held_out]))
        fit(
            self.model,
            [self._row(q, learned) for q in questions],
            [self._row(q, held_out) for q in shown],
            lambda made: extraction_f1(held_out, self._records(held_out, shown, made), schemas),
            DataCollatorForTokenClassification(self.tokenizer),
            out,
            recipe,
        )
        self.save(out, encoder, recipe)
        return self

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        questions = list(self._questions(offers, [schema_for(o, self.schemas).attributes for o in offers]))
        return self._records(offers, questions, outputs(self.model, self.tokenizer, [q.window for q in questions]))

    def _questions(self, offers: Sequence[ProductOffer], attributes: Sequence[Sequence[Attribute]]) -> Iterator[Asked]:
        for place, (offer, asked) in enumerate(zip(offers, attributes, strict=True)):
            for attribute in asked:
                for window in question_windows(self.tokenizer, question(attribute), offer):
                    yield Asked(place, attribute.name, window)

    def _row(self, asked: Asked, offers: Sequence[LabelledOffer]) -> Row:
        spans = _spans(asked.attribute, offers[asked.offer])
        tags = [IGNORED] * len(asked.window.words)
        for position, word in asked.window.first_pieces():
            tags[position] = LABELS[tag(word, spans)[0]]
        tags[0] = LABELS["B" if LABELS["B"] in tags or LABELS["I"] in tags else "O"]
        return row(asked.window, tags)

    def _learned_trims(self, offers: Sequence[LabelledOffer], questions: Sequence[Asked]) -> Trims:
        return learn_trims(
            (offers[q.offer].texts(), [q.window], _spans(q.attribute, offers[q.offer])) for q in questions
        )

    def _records(
        self, offers: Sequence[ProductOffer], questions: Sequence[Asked], logits: Sequence[Floats]
    ) -> list[Extraction | Failure]:
        answers: dict[tuple[int, str], list[tuple[Window, Floats]]] = {}
        for asked, scores in zip(questions, logits, strict=True):
            answers.setdefault((asked.offer, asked.attribute), []).append((asked.window, scores))
        spans: list[list[Span]] = [[] for _ in offers]
        for (place, attribute), scored in answers.items():
            spans[place] += self._answer(attribute, scored, offers[place].texts())
        return [
            record(o, schema_for(o, self.schemas), span_values(o, found), "question_answering@1")
            for o, found in zip(offers, spans, strict=True)
        ]

    def _answer(self, attribute: str, scored: list[tuple[Window, Floats]], texts: dict[str, str]) -> list[Span]:
        """The spans of one attribute, none where no window claims an answer; confidence includes that claim's probability."""
        answered = max(1 - float(softmax(scores[0])[LABELS["O"]]) for _, scores in scored)
        if answered < 0.5:
            return []
        words = {word: softmax(logits) for word, logits in averaged(scored).items()}
        labels = ["O", f"B-{attribute}", f"I-{attribute}"]
        spans = [replace(s, confidence=(s.confidence or 0.0) * answered) for s in decoded(words, labels)]
        spans.sort(key=lambda s: -(s.confidence or 0.0))
        return [trimmed(s, texts[s.field], self.trims) for s in spans]


def question(attribute: Attribute) -> str:
    return (f"{attribute.name}: {attribute.description}" if attribute.description else attribute.name)[:LONGEST]


def training_questions(
    offers: Sequence[LabelledOffer], schemas: Sequence[AttributeSchema], seed: int
) -> list[list[Attribute]]:
    """What each offer is asked in training: its labelled attributes, and as negatives those listed absent. Where no offer lists
    any, unlisted attributes of the category are negatives, drawn anew for each offer, half as many as it has values."""
    rng = Random(seed)
    lists_absents = any(o.absent for o in offers)
    asked = []
    for offer in offers:
        attributes = schema_for(offer, schemas).attributes
        with_value = [a for a in attributes if offer.attributes.get(a.name)]
        others = [a for a in attributes if a not in with_value]
        if lists_absents:
            negatives = [a for a in others if a.name in offer.absent]
        else:
            negatives = rng.sample(others, min(len(others), (len(with_value) + 1) // 2))
        asked.append(with_value + negatives)
    return asked


def _spans(attribute: str, offer: LabelledOffer) -> list[Span]:
    values = offer.attributes.get(attribute, [])
    return gold_spans(offer.model_copy(update={"attributes": {attribute: values}}))
