"""What is wrong with the files that go into a template's prompts, and whether the prompts fit the model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from extractor.demonstrations import DemonstrationPool, contradictions, leaks
from extractor.engines.tokens import TokenCounter, load_counter
from extractor.errors import TemplateError
from extractor.extract import answer_bound
from extractor.io import OfferReader, format_of, read_labelled
from extractor.lint import Finding, fault, unrendered
from extractor.prompts import Message, Template
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema, schema_of
from extractor.vocabulary import Vocabulary

Row = TypeVar("Row")


@dataclass(frozen=True)
class Inputs:
    """Schemas, offers and demonstrations, each of the latter two with its file:line."""

    schemas: Sequence[AttributeSchema]
    offers: Sequence[tuple[str, ProductOffer]]
    demonstrations: Sequence[tuple[str, LabelledOffer]]
    k: int

    def schema_for(self, offer: ProductOffer) -> AttributeSchema | None:
        return schema_of(offer.category, self.schemas)


def read_inputs(schemas: Sequence[AttributeSchema], offers: Path | None, demonstrations: Path | None, k: int) -> Inputs:
    """Raises InputError. Rows that are no offers are left out: their extraction fails without a prompt."""
    rows = placed(offers, OfferReader(offers)) if offers else []
    return Inputs(
        schemas,
        [(where, row) for where, row in rows if isinstance(row, ProductOffer)],
        placed(demonstrations, read_labelled(demonstrations)) if demonstrations else [],
        k,
    )


def placed(path: Path, rows: Iterable[Row]) -> list[tuple[str, Row]]:
    """Rows with their file:line where a row is a line."""
    rows = list(rows)
    if format_of(path) != "jsonl":
        return [(str(path), row) for row in rows]
    numbers = [n for n, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    return [(f"{path}:{n}", row) for n, row in zip(numbers, rows, strict=True)]


def lint_inputs(given: Inputs) -> list[Finding]:
    """Demonstrations that are among the offers, contradict their own text, or have no schema."""
    place = {d.id: where for where, d in given.demonstrations}
    found = [
        Finding(place[d.id], f"demonstration {d.id!r} is the offer {o!r}, which it must not help to answer")
        for d, o in leaks((d for _, d in given.demonstrations), (o for _, o in given.offers))
    ]
    strangers: dict[str | None, list[str]] = {}
    for where, demonstration in given.demonstrations:
        if given.schema_for(demonstration):
            found += [
                Finding(where, f"{demonstration.id}: {attribute}: {reason}")
                for attribute, reason in contradictions(demonstration, given.schemas)
            ]
        else:
            strangers.setdefault(demonstration.category, []).append(where)
    for category, places in strangers.items():
        message = f"no schema for category {category!r}: its demonstrations, {len(places)}, are never shown"
        found.append(Finding(places[0], message, note=True))
    return found


def lint_lengths(templates: Sequence[Template], given: Inputs, model: str) -> list[Finding]:
    """Attributes that a template does not render, and its longest prompt against the model's context."""
    counter = load_counter(model)
    found: list[Finding] = []
    for template in templates:
        try:
            found += [f for schema in given.schemas for f in unrendered(template, schema)]
            found.append(_longest(template, given, counter))
        except TemplateError as error:
            found.append(fault(error))
    return found


def _longest(template: Template, given: Inputs, counter: TokenCounter) -> Finding:
    prompts = _prompts(template, given)
    sizes = [(counter.count(messages), answer_bound(schema), where) for where, schema, messages in prompts]
    over = sum(prompt + answer > counter.context for prompt, answer, _ in sizes)
    prompt, answer, where = max(sizes, key=lambda size: size[0] + size[1])
    counted = (
        f"{prompt} tokens ({where}), and the answer may take {answer}: {prompt + answer} of the {counter.context}"
        f" that {counter.model} takes"
    )
    if not over:
        return Finding(str(template.path), f"the longest of {len(sizes)} prompts has {counted}", note=True)
    message = f"{over} of {len(sizes)} prompts do not fit; the longest has {counted}"
    return Finding(str(template.path), message + "; give fewer demonstrations, or fewer attributes")


def _prompts(template: Template, given: Inputs) -> Iterator[tuple[str, AttributeSchema, list[Message]]]:
    """A prompt for each offer that has a schema, and one for each schema that no offer has, with its k longest
    demonstrations."""
    shown = [d for _, d in given.demonstrations]
    pool, known = DemonstrationPool(shown, given.k), Vocabulary(given.schemas).known
    used = set()
    for where, offer in given.offers:
        if schema := given.schema_for(offer):
            used.add(schema)
            yield where, schema, template.render(schema, offer, pool.choose(offer, schema), known)
    for schema in given.schemas:
        if schema not in used:
            own = [d for d in shown if given.schema_for(d) is schema]
            own.sort(key=lambda d: sum(map(len, d.texts().values())), reverse=True)
            name = f"{schema.category or 'the schema'}, without an offer"
            yield name, schema, template.render(schema, ProductOffer(id="-", title="-"), own[: given.k])
