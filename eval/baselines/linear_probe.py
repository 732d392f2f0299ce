"""Transfer by feature extraction: a frozen encoder, linear models on the features of its last layer.

    shelfwise eval baseline linear_probe --data ../shared/data/oa_mine --out runs/probe

Text attributes: multinomial logistic regression over the BIO label of each word. Enum and boolean attributes: the same over
their values, from the features of the whole text. Numbers: ridge regression. The features of a word, or a text, are the mean or
the maximum over its pieces.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eval.baselines import folder
from eval.baselines.bio import Floats, decoded, labels_of, softmax, tag
from eval.baselines.closed import Target, answers, targets
from eval.baselines.encoder import encoder_folder
from eval.baselines.recipe import Recipe
from eval.baselines.spans import attribute_counts, gold_spans, record, schema_for, span_values
from eval.baselines.windows import Word, offer_windows
from extractor.errors import InputError
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema

TAGS = "tags"  # the linear model of BIO labels; the others are named by their attribute
Linear = tuple[Floats, Floats]  # weights: features x outputs, and bias


class LinearProbe:
    """`models` are linear: that of `TAGS` over `labels`, and one for each target."""

    RECIPE = Recipe(penalty=30.0)  # of 1 to 3,000, best on a part of oa_mine train

    def __init__(
        self,
        encoder: str,
        schemas: Sequence[AttributeSchema],
        pooling: str,
        labels: list[str],
        heads: list[Target],
        models: dict[str, Linear],
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        from eval.baselines.training import device

        source = encoder_folder(encoder)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.model = AutoModel.from_pretrained(source).to(device()).eval()
        self.schemas, self.pooling, self.labels, self.heads, self.models = schemas, pooling, labels, heads, models

    @classmethod
    def train(
        cls,
        training: Sequence[LabelledOffer],
        schemas: Sequence[AttributeSchema],
        out: Path,
        encoder: str = "minilm",
        recipe: Recipe | None = None,
    ) -> Self:
        """Fit on labelled offers, and write a folder that `load` reads; of the recipe, `pooling` and `penalty` count. The folder
        names the encoder, and does not hold it."""
        recipe = recipe or cls.RECIPE
        counts = attribute_counts(training)
        if not counts:
            raise InputError("the training offers have no values to learn")
        heads = targets(training, schemas, with_text=False)
        labels = labels_of(sorted(counts.keys() - {head.attribute for head in heads}))
        self = cls(encoder, schemas, recipe.pooling, labels, heads, {})
        words, texts = zip(*self._features(training), strict=True)
        if len(labels) > 1:
            spans = [gold_spans(_without(o, heads), counts) for o in training]
            tags = [labels.index(tag(w, found)) for of_offer, found in zip(words, spans, strict=True) for w in of_offer]
            features = np.array([f for of_offer in words for f in of_offer.values()])
            self.models[TAGS] = _classifier(features, np.array(tags), len(labels), recipe.penalty)
        for head in heads:
            known = [(f, y) for f, o in zip(texts, training, strict=True) if (y := head.encoded(o)) is not None]
            features, wanted = np.array([f for f, _ in known]), np.array([y for _, y in known])
            if head.classes:
                model = _classifier(features, wanted.astype(int), len(head.classes), recipe.penalty)
            else:
                model = _regressor(features, wanted, recipe.penalty)
            self.models[head.attribute] = model
        described = [head.to_dict() for head in heads]
        folder.write(
            out, "linear_probe", schemas, encoder=encoder, recipe=vars(recipe), labels=labels, targets=described
        )
        arrays = {f"{i}-{part}": a for i, m in enumerate(self.models.values()) for part, a in zip("wb", m, strict=True)}
        np.savez(out / "heads.npz", **arrays)  # type: ignore[arg-type]
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `train` wrote."""
        content = folder.read(path)
        heads = [Target.from_dict(t) for t in content["targets"]]
        names = ([TAGS] if len(content["labels"]) > 1 else []) + [head.attribute for head in heads]
        with np.load(path / "heads.npz") as arrays:
            models = {name: (arrays[f"{i}-w"], arrays[f"{i}-b"]) for i, name in enumerate(names)}
        return cls(
            content["encoder"], content["schemas"], content["recipe"]["pooling"], content["labels"], heads, models
        )

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        found = self._features(offers)
        return [self._record(offer, words, text) for offer, (words, text) in zip(offers, found, strict=True)]

    def _record(self, offer: ProductOffer, words: dict[Word, Floats], text: Floats) -> Extraction:
        schema = schema_for(offer, self.schemas)
        asked = {a.name: a for a in schema.attributes}
        values = {}
        if TAGS in self.models:
            allowed = np.array([label == "O" or label[2:] in asked for label in self.labels])
            scored = {word: softmax(self._outputs(TAGS, f), allowed) for word, f in words.items()}
            spans = sorted(decoded(scored, self.labels), key=lambda s: -(s.confidence or 0.0))
            values = span_values(offer, spans)
        for head in self.heads:
            if attribute := asked.get(head.attribute):
                values[head.attribute] = answers(attribute, head, self._outputs(head.attribute, text), offer)
        return record(offer, schema, values, "linear_probe@1")

    def _outputs(self, model: str, features: Floats) -> Floats:
        weights, bias = self.models[model]
        outputs: Floats = features @ weights + bias
        return outputs

    def _features(self, offers: Sequence[ProductOffer]) -> Iterator[tuple[dict[Word, Floats], Floats]]:
        """Of each offer, the features of its words, in the order of the text, and of the whole."""
        import torch

        width = self.model.config.hidden_size
        pool = np.max if self.pooling == "max" else np.mean
        for offer in offers:
            pieces: dict[Word, list[Floats]] = {}
            for window in offer_windows(self.tokenizer, offer):
                ids = torch.tensor([window.input_ids, window.token_type_ids], device=self.model.device)
                with torch.inference_mode():
                    hidden = self.model(input_ids=ids[:1], token_type_ids=ids[1:]).last_hidden_state[0]
                for word, state in zip(window.words, hidden.double().cpu().numpy(), strict=True):
                    if word is not None:
                        pieces.setdefault(word, []).append(state)
            ordered = sorted(pieces, key=lambda w: (w[0] == "description", w[1]))
            # A text of nothing but control characters has no pieces.
            everything = np.array([state for states in pieces.values() for state in states] or [np.zeros(width)])
            yield {word: pool(pieces[word], axis=0) for word in ordered}, pool(everything, axis=0)


def _without(offer: LabelledOffer, heads: Sequence[Target]) -> LabelledOffer:
    closed = {head.attribute for head in heads}
    return offer.model_copy(update={"attributes": {n: v for n, v in offer.attributes.items() if n not in closed}})


def _classifier(features: Floats, classes: NDArray[Any], n: int, penalty: float) -> Linear:
    """Logistic regression over the classes 0..n-1; one that has no example is never predicted."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((features.shape[1], n)), np.full(n, -1e9)
    present = np.unique(classes)
    if len(present) == 1:
        bias[present] = 0.0
        return weights, bias
    scaled, center, scale = _scaled(features)
    model = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-3).fit(scaled, classes)
    # For two classes scikit-learn keeps the log-odds of the second.
    coefficients = model.coef_ if len(present) > 2 else np.concatenate([np.zeros_like(model.coef_), model.coef_])
    intercept = model.intercept_ if len(present) > 2 else np.array([0.0, model.intercept_[0]])
    weights[:, present] = coefficients.T / scale[:, None]
    bias[present] = intercept - center @ weights[:, present]
    return weights, bias


def _regressor(features: Floats, wanted: Floats, penalty: float) -> Linear:
    from sklearn.linear_model import Ridge

    scaled, center, scale = _scaled(features)
    model = Ridge(alpha=penalty).fit(scaled, wanted)
    weights = (model.coef_ / scale)[:, None]
    return weights, model.intercept_ - center @ weights


def _scaled(features: Floats) -> tuple[Floats, Floats, Floats]:
    center, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (features - center) / scale, center, scale
