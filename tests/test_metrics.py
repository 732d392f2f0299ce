"""Scores against hand-worked tables, brute force, scikit-learn and seqeval."""

import random

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from eval import metrics
from eval.metrics import Prediction, tabulate
from extractor import LabelledOffer

ASKED = {"Shoes": ["Brand", "Color", "Size"]}


def gold(identity: str, title: str, absent: tuple[str, ...] = (), **values: str | list[str]) -> LabelledOffer:
    lists = {k: v if isinstance(v, list) else [v] for k, v in values.items()}
    return LabelledOffer(id=identity, title=title, category="Shoes", attributes=lists, absent=list(absent))


def says(**values: str | list[str]) -> Prediction:
    return Prediction({k: v if isinstance(v, list) else [v] for k, v in values.items()})


OFFERS = [
    gold("a", "Velmora Loafer Tan 42", Brand="Velmora", Color="Tan", Size="42"),
    gold("b", "Ostrin Boot", ("Color",), Brand="Ostrin"),
    gold("c", "Karu Wide Suede Sandal", Brand=["Karu", "Karu Wide"], Color="Suede Brown"),
    gold("d", "Fenno Clog", ("Brand",), Color="Grey"),
]
SAID = [
    says(Brand="Velmora", Color="tan", Size="42"),  # VC, VW (case counts), VC
    says(Color="Red", Size="9"),  # VN, NV, unlisted
    says(Brand=["Karu Wide", "Karu"], Color="Brown"),  # VC (any alternative), VW that overlaps
    Prediction(failure="output_truncated"),  # NN, VN
]


@pytest.fixture
def cells() -> metrics.Cells:
    return tabulate(OFFERS, SAID, ASKED)


def test_outcomes_of_a_hand_worked_table(cells):
    assert metrics.counts(cells) == {"NN": 1, "NV": 1, "VN": 2, "VC": 3, "VW": 2}
    found = metrics.score(metrics.tallies(cells)["published"], rounded=True)
    assert (found.precision, found.recall, found.f1) == (50.0, 42.86, 46.16)  # 3 of 6, 3 of 7, of the rounded two


def test_the_other_ways_of_counting(cells):
    ways = {name: metrics.score(t) for name, t in metrics.tallies(cells).items()}
    assert (ways["strict"].right, ways["strict"].predicted, ways["strict"].expected) == (
        3,
        7,
        7,
    )  # Size of b is wrong now
    assert ways["relaxed"].right == 5  # tan, and Brown for Suede Brown
    assert (ways["set"].right, ways["set"].predicted, ways["set"].expected) == (4, 7, 8)


def test_macro_leaves_out_groups_where_nothing_was_expected_or_said():
    offers = [gold("a", "x", ("Size",), Brand="x", Color="y"), gold("b", "x", ("Size",), Brand="x", Color="y")]
    table = tabulate(offers, [says(Brand="x", Color="y"), says(Brand="x")], ASKED)
    assert metrics.macro_f1(table) == pytest.approx((100 + 200 / 3) / 2)


def test_rates(cells):
    rates = metrics.rates(cells, failures=1)
    assert rates["false_value"] == 50.0 and rates["failure"] == 25.0
    assert rates["hallucination"] == pytest.approx(100 * 4 / 8)  # tan, Red, 9 and Brown stand nowhere


def test_nothing_predicted_and_nothing_expected_is_zero_not_an_error():
    empty = tabulate([gold("a", "x", ("Brand",))], [Prediction()], ASKED)
    assert metrics.score(metrics.tallies(empty)["published"]).f1 == 0.0
    assert metrics.macro_f1(empty) == 0.0 and set(metrics.rates(empty).values()) == {0.0}
    assert metrics.interval(metrics.bootstrap(empty, 10)["macro"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("a", "b", "overlap"),
    [
        ("Brown", "Suede Brown", True),
        ("Suede", "Dark Suede Brown", False),
        ("10 oz", "10 OZ", True),
        ("a b c d e", "a", False),  # the longer one counts: a whole title overlaps nothing
        ("黑色", "黑", True),
        ("", "", False),
    ],
)
def test_half_the_words_overlap(a, b, overlap):
    assert metrics.words_overlap(a, b) is overlap


def random_task(n: int, seed: int) -> tuple[list[LabelledOffer], list[Prediction]]:
    rng = random.Random(seed)
    offers, said = [], []
    for i in range(n):
        values = {a: rng.choice("uvw") for a in ASKED["Shoes"] if rng.random() < 0.6}
        absent = tuple(a for a in ASKED["Shoes"] if a not in values and rng.random() < 0.7)
        offers.append(gold(str(i), "u v w", absent, **values))
        said.append(says(**{a: rng.choice("uvw") for a in ASKED["Shoes"] if rng.random() < 0.6}))
    return offers, said


def test_agrees_with_scikit_learn():
    offers, said = random_task(300, 1)
    pairs = [
        (offer.attributes.get(a, ["-"])[0], (p.values.get(a) or ["-"])[0])
        for offer, p in zip(offers, said, strict=True)
        for a in ASKED["Shoes"]
        if a in offer.attributes or a in offer.absent
    ]
    truth, guess = zip(*pairs, strict=True)
    p, r, f, _ = precision_recall_fscore_support(truth, guess, labels=["u", "v", "w"], average="micro")
    found = metrics.score(metrics.tallies(tabulate(offers, said, ASKED))["published"])
    assert (found.precision, found.recall, found.f1) == pytest.approx((100 * p, 100 * r, 100 * f))


def test_agrees_with_seqeval():
    from seqeval.metrics import f1_score

    rng = random.Random(3)
    truth, guess, offers, said = [], [], [], []
    for i in range(200):
        tokens = [f"t{j}" for j in range(6)]
        tags = [[rng.choice(["O", "B-Brand", "B-Color", "B-Size"]) for _ in tokens] for _ in range(2)]
        truth.append(tags[0])
        guess.append(tags[1])
        values = [
            {a: [t for t, tag in zip(tokens, row, strict=True) if tag == f"B-{a}"] for a in ASKED["Shoes"]}
            for row in tags
        ]
        kept = [{a: v for a, v in found.items() if v} for found in values]
        offers.append(gold(str(i), " ".join(tokens), tuple(a for a in ASKED["Shoes"] if a not in kept[0]), **kept[0]))
        said.append(says(**kept[1]))
    found = metrics.score(metrics.tallies(tabulate(offers, said, ASKED))["set"])
    assert found.f1 == pytest.approx(100 * f1_score(truth, guess))


def test_bootstrap_is_that_of_resampled_offers():
    offers, said = random_task(40, 2)
    table = tabulate(offers, said, ASKED)
    fast = metrics.bootstrap(table, rounds=20, seed=5)
    rng = np.random.default_rng(5)
    for i in range(20):
        drawn = rng.integers(0, 40, 40)
        again = tabulate([offers[j] for j in drawn], [said[j] for j in drawn], ASKED)
        for way, tally in metrics.tallies(again).items():
            assert fast[way][i] == pytest.approx(metrics.score(tally).f1)
        assert fast["macro"][i] == pytest.approx(metrics.macro_f1(again))


def test_paired_comparison_finds_a_difference_and_none():
    offers, said = random_task(200, 4)
    better = [
        Prediction(dict(o.attributes)) if i % 3 == 0 else p for i, (o, p) in enumerate(zip(offers, said, strict=True))
    ]
    a, b = (metrics.bootstrap(tabulate(offers, p, ASKED), 500)["published"] for p in (said, better))
    low, high, p = metrics.paired(a, b)
    assert 0 < low < high and p < 0.01
    assert metrics.paired(a, a) == (0.0, 0.0, 1.0)


def test_breakdowns_tell_seen_from_unseen_and_head_from_rare():
    training = [gold(f"t{i}", "x", Brand="Velmora") for i in range(12)] + [gold("u", "x", Color="Pink")]
    by = metrics.breakdowns(tabulate(OFFERS, SAID, ASKED, training))
    assert by["value"]["seen in training"].recall == 100.0
    assert by["value"]["not seen"].expected == 6
    assert by["frequency"]["010..099"].expected == 3 and by["frequency"]["001..009"].expected == 3
    assert by["attribute"]["Brand"].right == 2 and set(by["category"]) == {"Shoes"}
    assert by["title length"]["000..049"].expected == 7
