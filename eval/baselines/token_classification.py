"""BIO tagging with a BERT encoder, the classic recipe: AutoModelForTokenClassification, AdamW with warm-up and linear decay,
dropout, weight decay, early stopping on extraction F1 over a part of the training labels.

    python -m eval.baselines.token_classification --data ../shared/data/ae_110k --out runs/bert

Words carry labels by their first piece, as in BERT's own recipe (Devlin et al. 2019, section 5.3). A description is read in
overlapping windows, each with the title before it; probabilities of a word are averaged over the windows that show it.
Labels of attributes that an offer's schema does not ask for are masked before decoding.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Self

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import EvalPrediction

from eval.baselines.encoder import encoder_folder
from eval.baselines.spans import Span, gold_spans, record, schema_for
from eval.metrics import score, tabulate, tallies
from eval.predictions import from_record
from extractor.errors import InputError
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema

IGNORED = -100
Floats = NDArray[np.float64]
Word = tuple[str, int, int]  # field, begin, end


@dataclass(frozen=True)
class Window:
    """One sequence for the encoder; `words` names the word that each piece begins, None for all other pieces."""

    input_ids: list[int]
    token_type_ids: list[int]
    words: list[Word | None]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters; the defaults are those of the plain tagger that the search starts from."""

    epochs: int = 15
    learning_rate: float = 3e-4
    batch: int = 16
    dropout: float = 0.1
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int = 5
    held_out: float = 0.1  # of the training offers, for early stopping; below 50 offers, none and all epochs
    seed: int = 0


class TokenClassification:
    """A trained tagger. `labels` are "O" and B-/I- of each attribute in the training labels."""

    name = "token_classification@1"

    def __init__(self, model: Any, tokenizer: Any, schemas: Sequence[AttributeSchema], length: int = 256) -> None:
        self.model, self.tokenizer, self.schemas, self.length = model, tokenizer, schemas, length
        self.labels: list[str] = [model.config.id2label[i] for i in range(model.config.num_labels)]

    @classmethod
    def train(
        cls,
        training: Sequence[LabelledOffer],
        schemas: Sequence[AttributeSchema],
        out: Path,
        encoder: str = "minilm",
        recipe: Recipe | None = None,
    ) -> Self:
        """Train on labelled offers, and write a folder that `load` reads. Prints scores by epoch, logs to TensorBoard."""
        recipe = recipe or Recipe()
        attributes = sorted({name for o in training for name, values in o.attributes.items() if values})
        if not attributes:
            raise InputError("the training offers have no values to learn")
        labels = ["O"] + [f"{kind}-{name}" for name in attributes for kind in "BI"]
        folder = encoder_folder(encoder)
        torch.manual_seed(recipe.seed)
        model = AutoModelForTokenClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            hidden_dropout_prob=recipe.dropout,
        )
        tagger = cls(model, AutoTokenizer.from_pretrained(folder), schemas)
        shuffled = Random(recipe.seed).sample(list(training), len(training))
        held_out = int(len(shuffled) * recipe.held_out) if len(shuffled) >= 50 else 0
        tagger._fit(shuffled[held_out:], shuffled[:held_out], out, recipe)
        model.save_pretrained(out / "model")
        tagger.tokenizer.save_pretrained(out / "model")
        (out / "model" / "schemas.json").write_text(json.dumps([s.model_dump(mode="json") for s in schemas]))
        return tagger

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `train` wrote."""
        schemas = [AttributeSchema.model_validate(s) for s in json.loads((folder / "schemas.json").read_text())]
        model = AutoModelForTokenClassification.from_pretrained(folder).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder), schemas)

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        windows = [(i, window) for i, offer in enumerate(offers) for window in self.windows(offer)]
        self.model.eval()
        logits: list[Floats] = []
        for begin in range(0, len(windows), 32):
            batch = self.tokenizer.pad(
                [
                    {"input_ids": w.input_ids, "token_type_ids": w.token_type_ids}
                    for _, w in windows[begin : begin + 32]
                ],
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits += list(self.model(**batch.to(self.model.device)).logits.double().cpu().numpy())
        return self._records(offers, windows, logits)

    def windows(self, offer: ProductOffer) -> list[Window]:
        """The sequences of one offer. A title so long that a description would hardly fit beside it stands alone."""
        texts = offer.texts()
        if len(texts) == 2 and len(self.tokenizer.tokenize(offer.title)) <= self.length // 2:
            return self._encoded(list(texts), list(texts.values()))
        return [w for field, text in texts.items() for w in self._encoded([field], [text])]

    def _encoded(self, fields: list[str], texts: list[str]) -> list[Window]:
        encoded = self.tokenizer(
            *texts,
            truncation="only_second" if len(texts) == 2 else "only_first",
            max_length=self.length,
            stride=self.length // 8,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        out = []
        for i, input_ids in enumerate(encoded["input_ids"]):
            words = _words(encoded.word_ids(i), encoded.sequence_ids(i), encoded["offset_mapping"][i], fields)
            out.append(Window(input_ids, encoded["token_type_ids"][i], words))
        return out

    def _fit(self, training: list[LabelledOffer], held_out: list[LabelledOffer], out: Path, recipe: Recipe) -> None:
        place = {label: i for i, label in enumerate(self.labels)}

        def examples(offers: list[LabelledOffer]) -> list[dict[str, Any]]:
            rows = []
            for offer in offers:
                spans = gold_spans(offer)
                for w in self.windows(offer):
                    tags = [IGNORED if word is None else place[_tag(word, spans)] for word in w.words]
                    rows.append({"input_ids": w.input_ids, "token_type_ids": w.token_type_ids, "labels": tags})
            return rows

        shown = [(i, window) for i, offer in enumerate(held_out) for window in self.windows(offer)]

        def extraction_f1(prediction: EvalPrediction) -> dict[str, float]:
            records = self._records(held_out, shown, list(prediction.predictions.astype(float)))
            asked = {o.category or "": [a.name for a in schema_for(o, self.schemas).attributes] for o in held_out}
            cells = tabulate(held_out, [from_record(r.to_dict()) for r in records], asked)
            return {"f1": score(tallies(cells)["published"]).f1}

        stopping = bool(held_out)
        trainer = Trainer(
            model=self.model,
            args=TrainingArguments(
                output_dir=str(out),
                num_train_epochs=recipe.epochs,
                learning_rate=recipe.learning_rate,
                per_device_train_batch_size=recipe.batch,
                per_device_eval_batch_size=32,
                weight_decay=recipe.weight_decay,
                warmup_steps=math.ceil(recipe.warmup * recipe.epochs * len(training) / recipe.batch),
                lr_scheduler_type="linear",
                eval_strategy="epoch" if stopping else "no",
                save_strategy="epoch" if stopping else "no",
                save_total_limit=1,
                save_only_model=True,
                load_best_model_at_end=stopping,
                metric_for_best_model="f1" if stopping else None,
                logging_strategy="epoch",
                report_to=["tensorboard"],
                bf16=torch.cuda.is_available(),
                seed=recipe.seed,
                disable_tqdm=True,
            ),
            train_dataset=examples(training),
            eval_dataset=examples(held_out) if stopping else None,
            data_collator=DataCollatorForTokenClassification(self.tokenizer),
            compute_metrics=extraction_f1,
            callbacks=[EarlyStoppingCallback(recipe.patience)] if stopping else [],
        )
        trainer.train()

    def _records(
        self, offers: Sequence[ProductOffer], windows: list[tuple[int, Window]], logits: list[Floats]
    ) -> list[Extraction | Failure]:
        seen: list[dict[Word, list[Floats]]] = [{} for _ in offers]
        for (i, window), scores in zip(windows, logits, strict=True):
            for position, word in enumerate(window.words):
                if word is not None:
                    seen[i].setdefault(word, []).append(scores[position])
        out: list[Extraction | Failure] = []
        for offer, found in zip(offers, seen, strict=True):
            schema = schema_for(offer, self.schemas)
            asked = {a.name for a in schema.attributes}
            allowed = np.array([label == "O" or label[2:] in asked for label in self.labels])
            words = sorted(found, key=lambda w: (w[0] == "description", w[1]))
            spans = list(self._decoded(words, [_probabilities(found[w], allowed) for w in words]))
            spans.sort(key=lambda s: -(s.confidence or 0.0))
            out.append(record(offer, schema, spans, self.name))
        return out

    def _decoded(self, words: list[Word], probabilities: list[Floats]) -> Iterator[Span]:
        """Spans of a BIO sequence; an I- that continues nothing begins a span. Confidence is the product over the words."""
        open_: Span | None = None
        for (field, begin, end), p in zip(words, probabilities, strict=True):
            best = int(p.argmax())
            kind, _, name = self.labels[best].partition("-")
            confidence = float(p[best])
            if open_ and kind == "I" and (open_.attribute, open_.field) == (name, field):
                open_ = Span(name, field, open_.begin, end, (open_.confidence or 0.0) * confidence)
                continue
            if open_:
                yield open_
            open_ = Span(name, field, begin, end, confidence) if kind != "O" else None
        if open_:
            yield open_


def _words(
    word_ids: list[int | None], sequences: list[int | None], offsets: list[tuple[int, int]], fields: list[str]
) -> list[Word | None]:
    """For each piece that begins a word, the word's field and its whole extent in this window."""
    extents: dict[tuple[int | None, int | None], list[int]] = {}
    for key, (begin, end) in zip(zip(sequences, word_ids, strict=True), offsets, strict=True):
        extents.setdefault(key, [begin, end])[1] = end
    words: list[Word | None] = []
    done: set[tuple[int | None, int | None]] = set()
    for key in zip(sequences, word_ids, strict=True):
        if key[0] is None or key[1] is None or key in done:
            words.append(None)
        else:
            done.add(key)
            words.append((fields[key[0]], extents[key][0], extents[key][1]))
    return words


def _tag(word: Word, spans: list[Span]) -> str:
    field, begin, end = word
    for span in spans:
        if span.field == field and span.begin < end and begin < span.end:
            return f"{'B' if begin <= span.begin else 'I'}-{span.attribute}"
    return "O"


def _probabilities(logits: list[Floats], allowed: NDArray[np.bool_]) -> Floats:
    masked = np.where(allowed, np.mean(logits, axis=0), -np.inf)
    exponents = np.exp(masked - masked.max())
    probabilities: Floats = exponents / exponents.sum()
    return probabilities


def main(
    data: Annotated[Path, typer.Option(help="A folder with train and validation.")],
    out: Path = Path("runs/bert"),
    encoder: str = "minilm",
    epochs: int = 15,
    learning_rate: float = 3e-4,
    held_out: Annotated[
        float, typer.Option(help="Share of train for early stopping; 0 trains all epochs on all.")
    ] = 0.1,
    seed: int = 0,
) -> None:
    """Train on `train`, score on `validation`."""
    from rich.console import Console

    from eval.datasets import load_dataset
    from eval.report import show, summarize

    training, validation = load_dataset(data, "train"), load_dataset(data, "validation")
    recipe = Recipe(epochs=epochs, learning_rate=learning_rate, held_out=held_out, seed=seed)
    tagger = TokenClassification.train(training.offers, training.schemas, out, encoder, recipe)
    records = tagger.extract(validation.offers)
    predictions = [from_record(r.to_dict()) for r in records]
    show(summarize(validation, predictions, training.offers), Console())


if __name__ == "__main__":
    typer.run(main)
