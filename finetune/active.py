"""Which offers to label next.

    shelfwise finetune select --data offers.jsonl --schema prompts/schemas/shoes.yaml --n 30 --out to_label.jsonl

and whether that is better than any offers, with labels simulated from gold:

    shelfwise finetune curves --data sets/ae_110k --budgets 30,60,120
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Literal, get_args

import numpy
from numpy.typing import NDArray

from eval.run import shared_engine
from extractor.config import Settings
from extractor.errors import InputError
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema

Strategy = Literal["random", "uncertainty", "disagreement", "diversity", "mixed"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Answers = Sequence[Extraction | Failure]
Scores = NDArray[numpy.float64]
# What each way of asking answers to these offers, with these labels as demonstrations and known values; one after the other.
Ask = Callable[[Sequence[LabelledOffer], Sequence[ProductOffer]], Iterator[Answers]]


@contextmanager
def asking(settings: Sequence[Settings], schemas: Sequence[AttributeSchema]) -> Iterator[Ask]:
    """One engine for all ways of asking."""
    with shared_engine(settings[0]) as opened:

        def ask(labels: Sequence[LabelledOffer], offers: Sequence[ProductOffer]) -> Iterator[Answers]:
            for way in settings:
                with opened(way, schemas, labels) as extractor:
                    yield extractor.extract(offers)

        yield ask


def answers_for(
    strategy: Strategy, ask: Ask, labels: Sequence[LabelledOffer], offers: Sequence[ProductOffer]
) -> list[Answers]:
    """As many as the strategy looks at."""
    if strategy in ("random", "diversity"):
        return []
    answers = ask(labels, offers)
    return list(answers) if strategy == "disagreement" else [next(answers)]


def ways_of(settings: Settings, strategy: Strategy, templates: Sequence[str], labels: int) -> list[Settings]:
    """The templates or, of only one, its demonstrations chosen by likeness and by chance. Raises InputError if there is nothing
    to disagree."""
    ways = [settings.model_copy(update={"template": t}) for t in templates or [settings.template]]
    if strategy == "disagreement" and len(ways) == 1:
        if not labels:
            raise InputError("disagreement takes two ways of asking: give --template twice, or --demonstrations")
        ways.append(ways[0].model_copy(update={"choice": "random"}))
    return ways


def strategy_named(name: str) -> Strategy:
    for strategy in STRATEGIES:
        if strategy == name:
            return strategy
    raise InputError(f"strategy {name!r} is none of {', '.join(STRATEGIES)}")


def uncertainty(answers: Answers) -> Scores:
    """For each offer, how many of its values are expected to be wrong; 0 for one that failed (a label would not help it)."""
    return numpy.array([sum(1 - confidence for confidence in _confidences(answer)) for answer in answers], dtype=float)


def _confidences(answer: Extraction | Failure) -> Iterator[float]:
    for values in answer.attributes.values() if isinstance(answer, Extraction) else ():
        yield from (v.confidence for v in values if v.confidence is not None)


def disagreement(asked: Sequence[Answers]) -> Scores:
    """For each offer, the attributes that two ways of asking answer otherwise, summed over all pairs."""
    found = numpy.zeros(len(asked[0]))
    for i, one in enumerate(asked):
        for other in asked[i + 1 :]:
            found += [_differences(a, b) for a, b in zip(one, other, strict=True)]
    return found


def _differences(one: Extraction | Failure, other: Extraction | Failure) -> int:
    if isinstance(one, Failure) or isinstance(other, Failure):
        return 0
    return sum({v.value for v in one.attributes[n]} != {v.value for v in other.attributes[n]} for n in one.attributes)


def select(
    offers: Sequence[ProductOffer], n: int, strategy: Strategy, asked: Sequence[Answers] = (), seed: int = 0
) -> list[int]:
    """Places of `n` offers, the most useful first. `asked`: what one way of asking answers (two or more for `disagreement`).

    `diversity` and `mixed` divide the offers into n clusters by the meaning of their texts (k-means on MiniLM's embeddings) and
    take of each the one in the middle, or the most uncertain one.
    """
    n = min(n, len(offers))
    match strategy:
        case "random":
            return Random(seed).sample(range(len(offers)), n)
        case "uncertainty":
            return _highest(uncertainty(asked[0]))[:n]
        case "disagreement":
            return _highest(disagreement(asked))[:n]
    from sklearn.cluster import KMeans

    from finetune.embedding import embedded

    texts = [" ".join(offer.texts().values()) for offer in offers]
    vectors = embedded(texts).numpy()
    clusters = KMeans(min(n, len(set(texts))), random_state=seed, n_init=1).fit(vectors)
    useful = uncertainty(asked[0]) if strategy == "mixed" else -clusters.transform(vectors).min(1)
    ranked = _highest(useful)
    _, first = numpy.unique(clusters.labels_[ranked], return_index=True)
    best = [ranked[i] for i in sorted(first)]
    return best + [i for i in ranked if i not in set(best)][: n - len(best)]


def _highest(scores: Scores) -> list[int]:
    return [int(i) for i in numpy.argsort(-scores, kind="stable")]


def curve(
    pool: Sequence[LabelledOffer],
    held_out: Sequence[LabelledOffer],
    schemas: Sequence[AttributeSchema],
    budgets: Sequence[int],
    strategy: Strategy,
    ask: Ask,
    seed: int = 0,
) -> Iterator[tuple[int, float]]:
    """(labels, F1 on `held_out`) as labels of the pool are bought by the strategy; the first budget is drawn by chance for all
    strategies alike. Budgets rise, up to the size of the pool."""
    from eval.baselines.training import extraction_f1

    left = Random(seed).sample(list(pool), len(pool))
    labels: list[LabelledOffer] = []
    for budget in budgets:
        wanted, chosen = budget - len(labels), list(range(budget))
        if labels:
            blind = [ProductOffer(**o.model_dump(exclude={"attributes", "absent"})) for o in left]
            chosen = select(blind, wanted, strategy, answers_for(strategy, ask, labels, blind), seed)
        labels += [left[i] for i in chosen]
        left = [offer for i, offer in enumerate(left) if i not in set(chosen)]
        yield len(labels), extraction_f1(held_out, next(ask(labels, held_out)), schemas)
