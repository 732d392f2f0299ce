"""Templates side by side, on the same offers: which is better, by how much, on which attributes, and where they differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from eval import metrics
from eval.datasets import Dataset
from eval.run import Run, inputs_of, run, shared_engine
from extractor.config import Settings
from extractor.demonstrations import DemonstrationPool
from extractor.prompts import load_template
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key
from extractor.vocabulary import Vocabulary


@dataclass(frozen=True)
class Arm:
    """One template's run over the common offers: `given` as the caller named it, `template` as name@version; `samples` are
    bootstrap F1 of the published protocol."""

    given: str
    template: str
    run: Run
    cells: metrics.Cells
    samples: metrics.Floats

    @property
    def f1(self) -> float:
        return float(self.run.scores["published"]["f1"])

    def attribute_f1(self, name: str) -> float | None:
        found = self.run.scores["by"]["attribute"].get(name)
        return float(found["f1"]) if found else None


def sampled(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """At most `n` offers, drawn by `seed`, in the order of the data."""
    if n >= len(dataset.offers):
        return dataset
    chosen = sorted(Random(seed).sample(range(len(dataset.offers)), n))
    return replace(dataset, offers=tuple(dataset.offers[i] for i in chosen))


def run_arms(
    templates: Sequence[str],
    dataset: Dataset,
    settings: Settings,
    demonstrations: Sequence[LabelledOffer],
    out: Path,
    price: dict[str, float] | None = None,
    progress: Callable[[str, int], None] = lambda template, done: None,
) -> list[Arm]:
    """Run every template over the data with one engine, started only if a run is not there yet."""
    references = [load_template(t).reference for t in templates]
    arms = []
    with shared_engine(settings) as extractor:
        for template, reference in zip(templates, references, strict=True):
            chosen = settings.model_copy(update={"template": template})
            done = run(
                partial(extractor, chosen, dataset.schemas, demonstrations),
                dataset,
                inputs_of(chosen, dataset, demonstrations),
                out,
                training=demonstrations,
                price=price,
                progress=partial(progress, reference),
            )
            cells = metrics.tabulate(dataset.offers, done.predictions, dataset.asked, demonstrations)
            arms.append(Arm(template, reference, done, cells, metrics.bootstrap(cells)["published"]))
    return arms


def differences(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Each arm against the first: F1, interval, and of the difference its interval and paired p-value; tokens an offer; F1
    by attribute with its change, the worst first."""
    first, out = arms[0], []
    for arm in arms:
        cost = arm.run.scores["cost"]
        names = sorted(set(arm.run.scores["by"]["attribute"]) | set(first.run.scores["by"]["attribute"]))
        changes = [
            {
                "attribute": n,
                "f1": arm.attribute_f1(n) or 0.0,
                "change": (arm.attribute_f1(n) or 0.0) - (first.attribute_f1(n) or 0.0),
            }
            for n in names
        ]
        low, high, p = metrics.paired(first.samples, arm.samples)
        out.append(
            {
                "template": arm.template,
                "folder": str(arm.run.folder),
                "f1": arm.f1,
                "interval": metrics.interval(arm.samples),
                "difference": {"f1": arm.f1 - first.f1, "interval": (low, high), "p": p},
                "rates": arm.run.scores["rates"],
                "tokens": {k: cost[f"{k}_tokens"] / max(cost["offers"], 1) for k in ("prompt", "output")},
                "money_per_1000": cost.get("money_per_1000"),
                "attributes": sorted(changes, key=lambda c: c["change"]),
            }
        )
    return out


def show(found: Sequence[dict[str, Any]], console: Console, rows: int = 5) -> None:
    """Print the comparison."""
    table = Table("template", box=None, pad_edge=False)
    priced = any(arm["money_per_1000"] is not None for arm in found)
    for title in ("F1", "95 %", "change", "95 %", "p", "tokens in", "out", *(["for 1,000"] if priced else [])):
        table.add_column(title, no_wrap=True, justify="right")
    for i, arm in enumerate(found):
        d = arm["difference"]
        change = (f"{d['f1']:+.1f}", _interval(d["interval"], "+.1f"), f"{d['p']:.3f}") if i else ("", "", "")
        tokens = (f"{arm['tokens']['prompt']:.0f}", f"{arm['tokens']['output']:.0f}")
        money = (f"{arm['money_per_1000']:.4f}",) if priced else ()
        table.add_row(arm["template"], f"{arm['f1']:.1f}", _interval(arm["interval"], ".1f"), *change, *tokens, *money)
    console.print(table)
    for arm in found[1:]:
        worse = [c for c in arm["attributes"] if c["change"] < 0][:rows]
        better = [c for c in reversed(arm["attributes"]) if c["change"] > 0][:rows]
        for title, changes in (("better", better), ("worse", worse)):
            if changes:
                shown = ", ".join(f"{c['attribute']} {c['change']:+.1f}" for c in changes)
                console.print(f"{arm['template']} {title}: {shown}")


def _interval(bounds: Sequence[float], form: str) -> str:
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def regressions(arms: Sequence[Arm], fail_below: float | None, attributes: Sequence[str]) -> list[str]:
    """Why a check of the later templates fails, one line each: F1 below a bound, or an attribute worse than under the first."""
    found = []
    for arm in arms[1:]:
        if fail_below is not None and arm.f1 < fail_below:
            found.append(f"{arm.template}: F1 {arm.f1:.1f} is below {fail_below}")
        for name in attributes:
            before, after = arms[0].attribute_f1(name) or 0.0, arm.attribute_f1(name) or 0.0
            if after < before:
                found.append(f"{arm.template}: {name} fell from {before:.1f} to {after:.1f}")
    return found


# --- the page ---------------------------------------------------------------------------------------------------------

VERDICTS = ("right", "invented", "missed", "right", "wrong")  # by outcome NN..VW


def differing(
    arms: Sequence[Arm], dataset: Dataset, settings: Settings, demonstrations: Sequence[LabelledOffer]
) -> list[dict[str, Any]]:
    """The offers on which the templates differ: per attribute gold and answers with their verdicts, and rendered prompts.
    Those where the last template loses most against the first come first."""
    outcomes = [dict(zip(zip(a.cells.offer, a.cells.group, strict=True), a.cells.outcome, strict=True)) for a in arms]
    listed = dict(zip(zip(arms[0].cells.offer, arms[0].cells.group, strict=True), arms[0].cells.listed, strict=True))
    group = {key: i for i, key in enumerate(arms[0].cells.groups)}
    schemas = {category_key(s.category): s for s in dataset.schemas}
    pool = DemonstrationPool(demonstrations, settings.k, settings.choice, order=settings.order)
    known = Vocabulary(dataset.schemas, demonstrations if settings.known else ()).known
    out = []
    for i, offer in enumerate(dataset.offers):
        rows, balance = [], 0
        for name in dataset.asked[offer.category or ""]:
            answers = [" | ".join(a.run.predictions[i].values.get(name, ())) for a in arms]
            gold = offer.attributes.get(name)
            if not gold and not any(answers):
                continue
            cell = (i, group[offer.category or "", name])
            verdicts = [VERDICTS[o[cell]] if listed[cell] else "unlisted" for o in outcomes]
            balance += (verdicts[-1] == "right") - (verdicts[0] == "right")
            rows.append(
                {
                    "attribute": name,
                    "gold": " | ".join(gold) if gold else "none" if name in offer.absent else "not listed",
                    "answers": list(zip(answers, verdicts, strict=True)),
                    "differs": len(set(answers)) > 1,
                }
            )
        failures = [a.run.predictions[i].failure for a in arms]
        if any(r["differs"] for r in rows) or len(set(failures)) > 1:
            schema: AttributeSchema = schemas.get(category_key(offer.category)) or dataset.schemas[0]
            shown = pool.choose(offer, schema)
            prompts = [load_template(a.given).render(schema, offer, shown, known) for a in arms]
            out.append({"offer": offer, "rows": rows, "failures": failures, "prompts": prompts, "balance": balance})
    return sorted(out, key=lambda row: row["balance"])


def write_page(path: Path, found: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], dataset: Dataset) -> None:
    """One HTML file that opens offline."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    page = environment.get_template("templates.html.jinja").render(arms=found, rows=rows, dataset=dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
