"""All scores of one set of predictions, as a dict for machines and as tables for people."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from eval import metrics
from eval.confidence import calibration_error, correct, coverage_at, judged
from eval.datasets import Dataset
from eval.metrics import Prediction
from extractor.prices import money
from extractor.records import LabelledOffer

WAYS = {
    "published": "F1, published protocol",
    "strict": "F1, unlisted attributes absent",
    "relaxed": "F1, half the words suffice",
    "set": "F1, every value expected",
}


def summarize(
    dataset: Dataset,
    predictions: Sequence[Prediction],
    training: Iterable[LabelledOffer] = (),
    rounds: int = 1000,
) -> dict[str, Any]:
    """Everything that is scored, each F1 with its 95 % interval by bootstrap over offers."""
    cells = metrics.tabulate(dataset.offers, predictions, dataset.asked, training)
    failures = Counter(p.failure for p in predictions if p.failure)
    samples = metrics.bootstrap(cells, rounds)
    values = judged(cells)
    confidence, right = values.confidence, correct(values)
    ways = metrics.tallies(cells)
    scores: dict[str, Any] = {
        name: asdict(metrics.score(tally)) | {"interval": metrics.interval(samples[name])}
        for name, tally in ways.items()
    }
    return {
        "data": {
            "name": dataset.name,
            "split": dataset.split,
            "offers": len(dataset.offers),
            "fingerprint": dataset.fingerprint,
            "left_out": dataset.left_out,
        },
        "micro": asdict(metrics.score(ways["published"], rounded=True)),
        "macro": {"f1": metrics.macro_f1(cells), "interval": metrics.interval(samples["macro"])},
        **scores,
        "outcomes": metrics.counts(cells),
        "rates": metrics.rates(cells, sum(failures.values())),
        "failures": dict(failures),
        "confidence": {
            "values": len(confidence),
            "calibration_error": calibration_error(confidence, right),
            "coverage_at_95": coverage_at(0.95, confidence, right),
            "coverage_at_98": coverage_at(0.98, confidence, right),
        },
        "by": {
            name: {label: asdict(s) for label, s in parts.items()} for name, parts in metrics.breakdowns(cells).items()
        },
    }


def cost(
    records: Iterable[Mapping[str, Any]], seconds: float, price: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Tokens, time and, with prices (`extractor.prices`), money for 1,000 offers."""
    usage: Counter[str] = Counter()
    n = 0
    for record in records:
        n += 1
        usage.update(record.get("usage") or {})
    out: dict[str, Any] = {
        "offers": n,
        **{k: usage[k] for k in ("prompt_tokens", "cached_tokens", "output_tokens")},
        "seconds": seconds,
        "records_per_second": n / seconds if seconds else 0.0,
    }
    if price is not None:
        spent = money(price, usage["prompt_tokens"], usage["cached_tokens"], usage["output_tokens"], seconds)
        out["money_per_1000"] = spent * 1000 / max(n, 1)
    return out


def show(scores: Mapping[str, Any], console: Console) -> None:
    """Print the scores as tables."""
    data = scores["data"]
    console.print(f"{data['name']} {data['split']}: {data['offers']} offers")
    left_out = dict(data["left_out"]) | dict(scores.get("left_out", {}))
    for reason, n in left_out.items():
        console.print(f"left out: {n} {reason}", style="yellow")
    table = Table("score", "precision", "recall", "F1", "95 % interval", box=None, pad_edge=False)
    for name, title in WAYS.items():
        s = scores[name]
        table.add_row(title, f"{s['precision']:.1f}", f"{s['recall']:.1f}", f"{s['f1']:.1f}", _interval(s["interval"]))
    macro = scores["macro"]
    table.add_row("macro F1, by attribute of a category", "", "", f"{macro['f1']:.1f}", _interval(macro["interval"]))
    console.print(table)
    console.print("outcomes: " + ", ".join(f"{name} {n}" for name, n in scores["outcomes"].items()))
    rates, confidence = scores["rates"], scores["confidence"]
    console.print(
        f"values that stand nowhere in the offer {rates['hallucination']:.1f} %, absent cells with a value "
        f"{rates['false_value']:.1f} %, offers that failed {rates['failure']:.1f} %"
    )
    if confidence["values"]:
        console.print(
            f"confidence: calibration error {confidence['calibration_error']:.3f}; of {confidence['values']} values, "
            f"{100 * confidence['coverage_at_95']:.0f} % can be accepted at 95 % precision, "
            f"{100 * confidence['coverage_at_98']:.0f} % at 98 %"
        )
    if spent := scores.get("cost"):
        money = f", {spent['money_per_1000']:.4f} for 1,000 offers" if "money_per_1000" in spent else ""
        console.print(
            f"cost: {spent['prompt_tokens']} prompt tokens ({spent['cached_tokens']} cached), {spent['output_tokens']} "
            f"output tokens, {spent['seconds']:.1f} s, {spent['records_per_second']:.1f} records/s{money}"
        )
    for name in ("attribute", "category", "frequency", "value", "title length"):
        _show_part(name, scores["by"][name], console)


def _show_part(name: str, parts: Mapping[str, Mapping[str, Any]], console: Console, rows: int = 30) -> None:
    if len(parts) < 2:
        return
    table = Table(name, "F1", "precision", "recall", "gold", box=None, pad_edge=False, title_justify="left")
    ordered = parts.items() if name != "attribute" else sorted(parts.items(), key=lambda p: -p[1]["expected"])
    for label, s in list(ordered)[:rows]:
        row = f"{s['f1']:.1f}", f"{s['precision']:.1f}", f"{s['recall']:.1f}", str(s["expected"])
        table.add_row(label or "(none)", *row)
    console.print()
    console.print(table)
    if len(parts) > rows:
        console.print(f"and {len(parts) - rows} more, in the JSON")


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"
