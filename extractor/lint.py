"""What is wrong with a template, found before a model is asked.

Most checks render the template with probes and look at what became of them, so that they hold for any way of writing it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import jinja2.meta

from extractor.answer import write_answer
from extractor.errors import TemplateError
from extractor.prompts import RELEASED, Message, Template, list_templates, released
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema

VARIABLES = {"category", "description", "attributes", "demonstrations", "offer", "message"}


@dataclass(frozen=True)
class Finding:
    """`where` is file:line, as far as it is known. A `note` is worth knowing and fails nothing."""

    where: str
    message: str
    note: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {'note: ' if self.note else ''}{self.message}"


def fault(error: TemplateError) -> Finding:
    """A template that does not render, as a finding."""
    where, _, message = str(error).partition(": ")
    return Finding(where, message)


# --- a template by itself ---------------------------------------------------------------------------------------------

TITLE, DESCRIPTION = "probe title", "probe text"
OFFER = ProductOffer(id="probe", title=TITLE, description=DESCRIPTION)
VALUES = tuple(f"probe value {i:02}" for i in range(30))
PROBE = AttributeSchema(
    category="Probe category",
    description="probe of the category",
    attributes=(
        Attribute(name="Probe attribute", description="probe of the attribute", examples=("probe example",)),
        Attribute(name="Probe enum", type="enum", values=VALUES),
        Attribute(name="Probe number", type="number", unit="probe unit"),
        Attribute(name="Probe boolean", type="boolean"),
        Attribute(name="Probe list", multiple=True),
        *(Attribute(name=f"Probe {i:02}") for i in range(35)),
    ),
)
DEMONSTRATION = LabelledOffer(
    id="d", title="shown title", description="shown text", attributes={"Probe attribute": ["shown"]}
)


def lint_template(template: Template) -> list[Finding]:
    """What is wrong with a template; empty if nothing is."""
    if unknown := list(_unknown(template)):
        return unknown
    try:
        plain, few = template.render(PROBE, OFFER), template.render(PROBE, OFFER, [DEMONSTRATION])
        return [
            *_unseen(template, plain, few),
            *_layout(template, plain, few),
            *unrendered(template, PROBE),
            *_imitable(template),
        ]
    except TemplateError as error:
        return [fault(error)]


def _unknown(template: Template) -> Iterator[Finding]:
    tree = jinja2.Environment().parse(template.source)
    for name in sorted(jinja2.meta.find_undeclared_variables(tree) - VARIABLES):
        where = _at(template, rf"\b{re.escape(name)}\b")
        yield Finding(where, f"unknown variable {name!r}; a template may use {', '.join(sorted(VARIABLES))}")


def _unseen(template: Template, plain: list[Message], few: list[Message]) -> Iterator[Finding]:
    """What a template is offered and shows neither with demonstrations nor without."""
    prompt = "\n".join(m["content"] for m in (*plain, *few))
    for probes, meaning, note in (
        ((TITLE,), "offer.title", False),
        ((DESCRIPTION,), "offer.description", False),
        (("Probe category",), "the category", False),
        (VALUES, "all values of an enum", False),
        (("probe of the category",), "the category's description", True),
        (("probe of the attribute",), "attribute descriptions", True),
        (("probe example",), "examples", True),
        (("probe unit",), "units", True),
    ):
        if any(probe not in prompt for probe in probes):
            yield Finding(str(template.path), f"the prompt never shows {meaning}", note)
    if few != plain and not {"shown title", "shown text"} <= set(re.findall("shown title|shown text", prompt)):
        yield Finding(str(template.path), "the prompt never shows title and description of a demonstration")
    plainly = {"type": "text", "unit": None}
    for place, changed, meaning in (
        (2, plainly, "that an attribute is a number"),
        (3, plainly, "that an attribute is true or false"),
        (4, {"multiple": False}, "that an attribute takes several values (multiple)"),
    ):
        attributes = [a.model_copy(update=changed) if i == place else a for i, a in enumerate(PROBE.attributes)]
        if template.render(PROBE.model_copy(update={"attributes": tuple(attributes)}), OFFER) == plain:
            yield Finding(str(template.path), f"the prompt never shows {meaning}", note=True)


def _layout(template: Template, plain: list[Message], few: list[Message]) -> Iterator[Finding]:
    path = str(template.path)
    if plain[-1]["role"] != "user" or TITLE not in plain[-1]["content"]:
        yield Finding(path, "the last message must be the user's, with the offer")
    if few == plain:
        yield Finding(path, "demonstrations never reach the prompt")
    elif write_answer(PROBE, DEMONSTRATION.attributes) not in [m["content"] for m in few if m["role"] == "assistant"]:
        yield Finding(path, "a demonstration's answer must be an assistant message of its own")
    if any(TITLE in m["content"] for m in plain[:-1]):
        yield Finding(path, "the offer stands before the last message, which defeats the prefix cache")


def unrendered(template: Template, schema: AttributeSchema) -> Iterator[Finding]:
    """The attributes whose names do not reach the prompt. They are renamed for it: `Size` also stands in `Pack Size`."""
    names = [f"Renamed{i:04}." for i in range(len(schema.attributes))]
    attributes = [a.model_copy(update={"name": n}) for a, n in zip(schema.attributes, names, strict=True)]
    renamed = schema.model_copy(update={"attributes": tuple(attributes)})
    # Both, for a template may treat an attribute by its name.
    one, two = ("\n".join(m["content"] for m in template.render(s, OFFER)) for s in (renamed, schema))
    missing = [a.name for a, n in zip(schema.attributes, names, strict=True) if n not in one or a.name not in two]
    if len(missing) == len(names):
        yield Finding(str(template.path), "the prompt never shows the attribute names")
    elif missing:
        of = "" if schema is PROBE else f" of {schema.category or 'the schema'}"
        yield Finding(
            _at(template, r"\{[%{][^%}]*\battributes\b"),
            f"{len(missing)} of {len(names)} attributes{of} are never rendered: {_some(missing)}",
        )


def _imitable(template: Template) -> Iterator[Finding]:
    """Text around the offer's fields that would pass unchanged if it stood in them: with it, a seller can seem to end a
    field, or to begin another."""
    found: dict[str, str] = {}
    for offer in (OFFER, OFFER.model_copy(update={"description": None})):
        parts = re.split(f"({TITLE}|{DESCRIPTION})", template.render(PROBE, offer)[-1]["content"])
        for place in range(1, len(parts), 2):
            field = "title" if parts[place] == TITLE else "description"
            before, after = parts[place - 1].strip(), parts[place + 1].strip()
            if not before and place > 1:
                found.setdefault(
                    "", f"nothing but white space stands before the {field}, so that the other field runs on"
                )
            for side, literal in (("before", before.rpartition("\n")[2]), ("after", after.partition("\n")[0])):
                if literal and _passes(template, offer, field, literal):
                    found.setdefault(literal, f"a seller could write {literal!r}, which stands {side} the {field}")
    for literal, message in found.items():
        where = _at(template, re.escape(literal)) if literal else str(template.path)
        yield Finding(where, f"{message}; enclose each field in tags: <title>…</title> never stands in seller text")


def _passes(template: Template, offer: ProductOffer, field: str, literal: str) -> bool:
    text = f"probe {literal} probe"
    return text in template.render(PROBE, offer.model_copy(update={field: text}))[-1]["content"]


def _at(template: Template, pattern: str) -> str:
    """file:line of the first match outside of comments, or the file."""
    blanked = re.sub(r"\{#.*?#\}", lambda m: re.sub(r"[^\n]", " ", m[0]), template.source, flags=re.DOTALL)
    match = re.search(pattern, blanked)
    return f"{template.path}:{blanked.count(chr(10), 0, match.start()) + 1}" if match else str(template.path)


def _some(items: Sequence[str], n: int = 5) -> str:
    more = f" and {len(items) - n} more" if len(items) > n else ""
    return ", ".join(repr(i) for i in items[:n]) + more


# --- released versions ------------------------------------------------------------------------------------------------


def lint_release(template: Template) -> list[Finding]:
    """Whether a version in a folder of templates is what was released."""
    root = template.path.parent.parent
    record, reference = released(root), f"{template.path.parent.name}@{template.path.stem}"
    if reference in record and record[reference] != template.sha256:
        return [
            Finding(
                f"{template.path}:1",
                f"{reference} was edited after its release: {_line(root, reference)} has {record[reference][:12]},"
                f" the file {template.sha256[:12]}; restore it, and save the new text under the next version",
            )
        ]
    if record and reference not in record and template.path.stem.isdigit():
        advice = f"not released, so edits go unnoticed; shelfwise prompts release {reference}"
        return [Finding(str(template.path), advice, note=True)]
    return []


def lint_record(root: Path) -> list[Finding]:
    """Released versions that are gone."""
    gone = sorted(released(root).keys() - set(list_templates(root)))
    return [Finding(_line(root, r), f"{r} was released, and its file is gone; restore it") for r in gone]


def _line(root: Path, reference: str) -> str:
    lines = (root / RELEASED).read_text(encoding="utf-8").splitlines()
    return f"{root / RELEASED}:{next(i for i, line in enumerate(lines, 1) if reference in line)}"
