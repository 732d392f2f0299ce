"""What a comparison found, as sections of a report: F1 against labels, differences, attributes, cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eval import metrics, plots
from eval.compare import ALL, Arm
from eval.datasets import Dataset
from eval.page import Section

Key = tuple[str, int | None]  # system and budget: the arms of all seeds together
RIVAL = "token_classification"  # what prompting and adapters are measured against


def sections(dataset: Dataset, arms: Sequence[Arm]) -> list[Section]:
    """The report on one data set."""
    groups = by_budget(arms)
    budgets = sorted({budget for _, budget in groups}, key=_order)
    systems = list(dict.fromkeys(system for system, _ in groups))
    return [
        _curve(dataset, groups, systems, budgets),
        *_differences(dataset, groups),
        _attributes(dataset, groups, systems),
        _novelty(dataset, groups),
        *_worst(dataset, groups),
        _cost(dataset, groups),
    ]


def by_budget(arms: Sequence[Arm]) -> dict[Key, list[Arm]]:
    groups: dict[Key, list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.system, arm.budget), []).append(arm)
    return groups


def pooled(arms: Sequence[Arm]) -> tuple[float, float, float]:
    """Mean F1 over seeds, with its 95 % interval: the same resamples of the offers for every seed, averaged."""
    mean = np.mean([a.samples for a in arms], axis=0)
    return float(np.mean([a.run.scores["published"]["f1"] for a in arms])), *metrics.interval(mean)


def as_json(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """One entry for each system and budget, with the score of each seed."""
    return [
        {
            "system": system,
            "budget": _label(budget),
            "labels": group[0].labels,
            "f1": (found := pooled(group))[0],
            "interval": found[1:],
            "seeds": [
                {"seed": a.seed, "f1": a.run.scores["published"]["f1"], "rates": a.run.scores["rates"]} for a in group
            ],
            "by_attribute": {n: _mean_f1(group, "attribute", n) for n in _names(group, "attribute")},
            "cost": [a.run.scores["cost"] for a in group],
            "folders": [str(a.run.folder) for a in group],
        }
        for (system, budget), group in by_budget(arms).items()
    ]


def _order(budget: int | None) -> float:
    return float("inf") if budget is None else budget


def _label(budget: int | None) -> str:
    return ALL if budget is None else str(budget)


def _curve(
    dataset: Dataset, groups: Mapping[Key, list[Arm]], systems: Sequence[str], budgets: Sequence[int | None]
) -> Section:
    found = {key: pooled(group) for key, group in groups.items()}
    rows = []
    for system in systems:
        scores = [found.get((system, b)) for b in budgets]
        rows.append([system, *(f"{s[0]:.1f} ({s[1]:.1f} to {s[2]:.1f})" if s else "" for s in scores)])
    place = {b: i for i, b in enumerate(budgets)}
    series = {s: [(place[b], *found[s, b]) for b in budgets if (s, b) in found] for s in systems}
    figure = plots.lines(series, "labels", "F1", [(i, _label(b)) for b, i in place.items()])
    note = (
        f"Micro-F1 by the published protocol on {len(dataset.offers)} offers of {dataset.split}; mean over seeds, and 95 % "
        "interval by bootstrap over offers."
    )
    return Section(f"{dataset.name}: F1 by number of labels", note, ["system", *map(_label, budgets)], rows, figure)


def _differences(dataset: Dataset, groups: Mapping[Key, list[Arm]]) -> Iterable[Section]:
    rows: list[list[str | float]] = []
    for (system, budget), group in groups.items():
        rival = groups.get((RIVAL, budget))
        if rival is None or system == RIVAL:
            continue
        ours, theirs = (np.mean([a.samples for a in g], axis=0) for g in (group, rival))
        low, high, p = metrics.paired(theirs, ours)
        difference = pooled(group)[0] - pooled(rival)[0]
        rows.append([system, _label(budget), f"{difference:+.1f}", f"{low:+.1f} to {high:+.1f}", f"{p:.3f}"])
    if rows:
        note = "Same labels, same offers, paired bootstrap."
        columns = ["system", "labels", "F1 difference", "95 % interval", "p"]
        yield Section(f"{dataset.name}: against {RIVAL}", note, columns, rows)


def _most(groups: Mapping[Key, list[Arm]]) -> dict[str, list[Arm]]:
    """Each system with the most labels it was given."""
    best: dict[str, list[Arm]] = {}
    for (system, _), group in sorted(groups.items(), key=lambda g: _order(g[0][1])):
        best[system] = group
    return best


def _names(arms: Iterable[Arm], kind: str) -> list[str]:
    found: dict[str, int] = {}
    for arm in arms:
        for name, s in arm.run.scores["by"][kind].items():
            found[name] = max(found.get(name, 0), s["expected"])
    return sorted(found, key=lambda n: (-found[n], n))


def _mean_f1(arms: Sequence[Arm], kind: str, name: str) -> float:
    return float(np.mean([a.run.scores["by"][kind].get(name, {}).get("f1", 0.0) for a in arms]))


def _attributes(dataset: Dataset, groups: Mapping[Key, list[Arm]], systems: Sequence[str]) -> Section:
    most = _most(groups)
    names = _names([a for g in most.values() for a in g], "attribute")
    expected = next(iter(most.values()))[0].run.scores["by"]["attribute"]
    rows = [
        [name, expected.get(name, {}).get("expected", 0), *(_mean_f1(most[s], "attribute", name) for s in systems)]
        for name in names
    ]
    note = "F1 with the most labels that each system was given."
    return Section(f"{dataset.name}: by attribute", note, ["attribute", "gold", *systems], rows)


def _novelty(dataset: Dataset, groups: Mapping[Key, list[Arm]]) -> Section:
    rows: list[list[str | float]] = []
    for (system, budget), group in groups.items():
        if budget != 0:
            seen, unseen = (_mean_f1(group, "value", name) for name in ("seen in training", "not seen"))
            rows.append([system, _label(budget), seen, unseen])
    note = (
        "F1 of cells whose gold value is among the labels that the system was given, and of those whose value is not."
    )
    return Section(f"{dataset.name}: values never seen", note, ["system", "labels", "seen", "not seen"], rows)


def _worst(dataset: Dataset, groups: Mapping[Key, list[Arm]], n: int = 10) -> Iterable[Section]:
    """The attributes of the best system that miss most, each with an offer that it got wrong."""
    best = max(groups.values(), key=lambda g: pooled(g)[0])[0]
    cells = best.cells
    wrong = cells.listed & (cells.outcome != metrics.NN) & (cells.outcome != metrics.VC)
    rows: list[list[str | float]] = []
    scores = best.run.scores["by"]["attribute"]
    for name in sorted(scores, key=lambda a: scores[a]["right"] - scores[a]["expected"])[:n]:
        of_it = np.array([attribute == name for _, attribute in cells.groups])[cells.group]
        places = cells.offer[wrong & of_it]
        if not len(places):
            continue
        offer = dataset.offers[places[0]]
        gold = " | ".join(offer.attributes.get(name, ())) or "none"
        answer = " | ".join(best.run.predictions[places[0]].values.get(name, ())) or "none"
        rows.append([name, scores[name]["f1"], len(places), offer.title, gold, answer])
    if rows:
        note = f"Of {best.system} with {_label(best.budget)} labels: where most is wrong or missing, with an example."
        columns = ["attribute", "F1", "wrong cells", "offer", "gold", "answer"]
        yield Section(f"{dataset.name}: worst attributes", note, columns, rows)


def _cost(dataset: Dataset, groups: Mapping[Key, list[Arm]]) -> Section:
    rows: list[list[str | float]] = []
    for (system, budget), group in groups.items():
        costs = [a.run.scores["cost"] for a in group]
        offers = sum(c["offers"] for c in costs)
        tokens = [
            sum(c[k] for c in costs) / max(offers, 1) for k in ("prompt_tokens", "cached_tokens", "output_tokens")
        ]
        speed = float(np.median([c["records_per_second"] for c in costs]))
        start = float(np.median([c["opening_seconds"] for c in costs]))
        rows.append([system, _label(budget), start, speed, *(round(t) for t in tokens)])
    note = "Seconds until the first record (training; for prompted systems the start of the engine, paid once), and per offer."
    columns = ["system", "labels", "s before", "records/s", "tokens in", "of them cached", "tokens out"]
    return Section(f"{dataset.name}: cost and speed", note, columns, rows)
