"""Ways to ask for the same attributes: a template, what it leaves out, and its demonstrations; and how they are run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from random import Random

from eval.datasets import Dataset
from eval.run import OpenExtractor, Run, inputs_of, run
from extractor.config import Settings
from extractor.demonstrations import Choice, Order
from extractor.prompts import OPTIONAL, Template, without
from extractor.records import LabelledOffer


@dataclass(frozen=True)
class Variant:
    """One way to ask. `template` is a key of the templates searched; `left_out`, fields of OPTIONAL that its prompts lack;
    `seed` shuffles the demonstrations, 0 leaves them as they stand."""

    template: str
    left_out: tuple[str, ...] = ()
    k: int = 0
    choice: Choice = "similar"
    order: Order = "last"
    seed: int = 0

    def __str__(self) -> str:
        how = f"{self.choice} {self.order}" if self.choice == "similar" else f"{self.choice} seed {self.seed}"
        less = f" without {'+'.join(self.left_out)}" if self.left_out else ""
        return f"{self.template}{less} k={self.k}{' ' + how if self.k else ''}"

    def plain(self) -> "Variant":
        """The same prompts, with what has no influence on them as by default."""
        if not self.k:
            return Variant(self.template, self.left_out)
        if self.choice == "similar":
            return replace(self, seed=0, order="last" if self.k == 1 else self.order)
        return replace(self, order="last")

    def changes(self, other: "Variant") -> int:
        return sum(getattr(self, f.name) != getattr(other, f.name) for f in fields(self))


def space(
    baseline: Variant, parts: dict[str, list[tuple[str, ...]]], ks: Sequence[int], seeds: int, seed: int
) -> list[Variant]:
    """Every variant, the baseline first, then those that change one thing of it, then two, … by chance within these.
    `parts`: by template, what may be left out."""
    ways: list[tuple[Choice, Order, int]] = [("similar", "last", 0), ("similar", "first", 0)]
    ways += [(c, "last", s) for c in ("fixed", "random") for s in range(seeds)]
    named = [(template, left_out) for template, choices in parts.items() for left_out in choices]
    made = [Variant(t, left_out, k, *way).plain() for (t, left_out), k, way in product(named, ks, ways)]
    others = sorted(set(made) - {baseline}, key=made.index)
    Random(seed).shuffle(others)
    return [baseline, *sorted(others, key=baseline.changes)]


def removable(template: Template, dataset: Dataset) -> list[tuple[str, ...]]:
    """The fields that can be left out with a change to the prompts, nothing first."""
    found: dict[str, tuple[str, ...]] = {}
    for n in range(len(OPTIONAL) + 1):
        for chosen in combinations(OPTIONAL, n):
            left = [s.model_copy(update={"attributes": tuple(without(s.attributes, *chosen))}) for s in dataset.schemas]
            found.setdefault(str([template.render(s, dataset.offers[0]) for s in left]), chosen)
    return list(found.values())


Ask = Callable[[Variant, Dataset], Run]


def asker(
    templates: dict[str, Template],
    settings: Settings,
    demonstrations: Sequence[LabelledOffer],
    out: Path,
    folder: Path,
    extractor: OpenExtractor,
    progress: Callable[[int], None] = lambda offers: None,
) -> Ask:
    """What answers a data set as a variant says, as a run in `out`; templates that lack a part are written to `folder`.
    `progress` gets the offers that all runs together have answered."""
    made: dict[tuple[Variant, str], Run] = {}

    def ask(variant: Variant, part: Dataset) -> Run:
        key = (variant, part.fingerprint)
        if key not in made:
            before = sum(len(r.predictions) for r in made.values())
            shown = shuffled(demonstrations, variant.seed) if variant.k else []
            template = _usable(templates[variant.template], variant, folder)
            how = {"template": template, "k": variant.k, "choice": variant.choice, "order": variant.order}
            chosen = settings.model_copy(update=how)
            made[key] = run(
                partial(extractor, chosen, part.schemas, shown),
                part,
                inputs_of(chosen, part, shown),
                out,
                training=shown,
                progress=lambda n: progress(before + n),
            )
        return made[key]

    return ask


def shuffled(demonstrations: Sequence[LabelledOffer], seed: int) -> list[LabelledOffer]:
    shown = list(demonstrations)
    if seed:
        Random(seed).shuffle(shown)
    return shown


def _usable(template: Template, variant: Variant, folder: Path) -> str:
    """The file of the variant's template."""
    if not variant.left_out:
        return str(template.path)
    text = text_without(template.source, variant.left_out)
    path = folder / f"{variant.template.replace('@', '-')}-without-{'-'.join(variant.left_out)}.jinja"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def text_without(source: str, left_out: Sequence[str]) -> str:
    """A template whose attributes lack these fields."""
    if not left_out:
        return source
    arguments = ", ".join(f'"{f}"' for f in left_out)
    return f"{{%- set attributes = attributes | without({arguments}) -%}}\n{source}"
