"""BIO labels of words, and spans out of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eval.baselines.spans import Span
from eval.baselines.windows import Window, Word

Floats = NDArray[np.float64]


def labels_of(attributes: Iterable[str]) -> list[str]:
    return ["O"] + [f"{kind}-{name}" for name in attributes for kind in "BI"]


def tag(word: Word, spans: Sequence[Span]) -> str:
    """The label of a word: of the first span that it touches."""
    field, begin, end = word
    for span in spans:
        if span.field == field and span.begin < end and begin < span.end:
            return f"{'B' if begin <= span.begin else 'I'}-{span.attribute}"
    return "O"


def averaged(windows: Iterable[tuple[Window, Floats]]) -> dict[Word, Floats]:
    """The scores of each word, in the order of the text, averaged over the windows that show it. Scores are pieces x labels."""
    seen: dict[Word, list[Floats]] = {}
    for window, scores in windows:
        for position, word in window.first_pieces():
            seen.setdefault(word, []).append(scores[position])
    return {word: np.mean(seen[word], axis=0) for word in sorted(seen, key=lambda w: (w[0] == "description", w[1]))}


def softmax(logits: Floats, allowed: NDArray[np.bool_] | None = None) -> Floats:
    """Probabilities over the last axis; what is not allowed has none."""
    masked = logits if allowed is None else np.where(allowed, logits, -np.inf)
    exponents = np.exp(masked - masked.max(axis=-1, keepdims=True))
    probabilities: Floats = exponents / exponents.sum(axis=-1, keepdims=True)
    return probabilities


def decoded(words: Mapping[Word, Floats], labels: Sequence[str]) -> Iterator[Span]:
    """Spans of words with their probabilities; an I- that continues nothing begins a span. Confidence is the product over the
    words."""
    open_: Span | None = None
    for (field, begin, end), p in words.items():
        best = int(p.argmax())
        kind, _, name = labels[best].partition("-")
        confidence = float(p[best])
        if open_ and kind == "I" and (open_.attribute, open_.field) == (name, field):
            open_ = replace(open_, end=end, confidence=(open_.confidence or 0.0) * confidence)
            continue
        if open_:
            yield open_
        open_ = Span(name, field, begin, end, confidence) if kind != "O" else None
    if open_:
        yield open_


# --- values that end inside a word ------------------------------------------------------------------------------------

Trims = dict[str, dict[str, str]]  # attribute -> text of whole words -> the value inside it


def learn_trims(labelled: Iterable[tuple[Mapping[str, str], Sequence[Window], Sequence[Span]]]) -> Trims:
    """For values that are less than the words they stand in ("Letter" in "Letters"): how labels of the attribute cut those
    words, by majority. Each item has the texts of an offer, its windows and its gold spans."""
    seen: dict[tuple[str, str], Counter[str]] = {}
    for texts, windows, spans in labelled:
        words = {word for window in windows for _, word in window.first_pieces()}
        for span in spans:
            touched = [w for w in words if w[0] == span.field and span.begin < w[2] and w[1] < span.end]
            if touched:
                text = texts[span.field]
                outer = text[min(w[1] for w in touched) : max(w[2] for w in touched)]
                seen.setdefault((span.attribute, outer), Counter())[text[span.begin : span.end]] += 1
    trims: Trims = {}
    for (attribute, outer), values in seen.items():
        if (value := values.most_common(1)[0][0]) != outer and value in outer:
            trims.setdefault(attribute, {})[outer] = value
    return trims


def trimmed(span: Span, text: str, trims: Trims) -> Span:
    """The part of the span that labels of its attribute would name."""
    outer = text[span.begin : span.end]
    value = trims.get(span.attribute, {}).get(outer)
    if value is None:
        return span
    begin = span.begin + outer.index(value)
    return replace(span, begin=begin, end=begin + len(value))
