"""How offers are asked about: the templates of files, and those that were saved here."""

from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import Path
from pydantic import ConfigDict, Field, StringConstraints, model_validator

from extractor import sandbox
from extractor.definitions import Version, unsaved
from extractor.errors import InputError
from extractor.lint import Finding
from extractor.prompts import Template, list_templates, load_template, released
from extractor.records import Failure
from extractor.service.api.common import BODY, Asking, Served, asked_schema, problems, router
from extractor.service.models import EXAMPLE, Asked, Body, Name, Number, Offer
from extractor.service.problems import Problem, invalid

reviewing, saving = router("review"), router("admin")

TemplateName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
SHORT = (
    '{% call message("user") %}{{ category }}: {{ attributes | map(attribute="name") | join(", ") }}\n'
    "<title>{{ offer.title }}</title>{% endcall %}"
)


class TemplateSummary(Body):
    reference: str
    sha256: str
    released: bool = Field(description="A version that never changes: of a file that was released, or saved here.")
    who: str | None = Field(description="Who saved it; None for a file.")
    at: str | None


class TemplateText(TemplateSummary):
    text: str


class DraftTemplate(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": SHORT}]})

    text: Text


class Line(Body):
    line: int | None = Field(description="Counted from 1, as far as it is known.")
    message: str


class Linted(Body):
    """A template with problems is not saved; notes are worth knowing."""

    problems: list[Line]
    notes: list[Line]


class PreviewRequest(Asked):
    """An offer, and the template that is to show it, by name or as text; without one, that of the service."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"offer": EXAMPLE, "template": "extract"}, {"offer": EXAMPLE, "text": SHORT}]}
    )

    offer: Offer
    template: Name | None = None
    text: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.template is not None and self.text is not None:
            raise ValueError("`template` and `text` both say how to ask; give one of them")
        return self


class ShownMessage(Body):
    role: str
    content: str


class PreviewAnswer(Body):
    schema_: str = Field(serialization_alias="schema")
    messages: list[ShownMessage]


class SaveRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "short", "text": SHORT, "from_version": 0}]})

    name: TemplateName
    text: Text
    from_version: Number = Field(description="That the editor started from; 0 for a new name.")


class SavedTemplate(TemplateSummary):
    notes: list[Line]


@reviewing.get("/templates")
def templates(service: Served) -> list[TemplateSummary]:
    """The prompt templates."""
    saved = {f"{v.name}@{v.number}": v for v in service.definitions.versions("template")}
    files = [_of_file(load_template(reference)) for reference in list_templates() if reference not in saved]
    return [*files, *(_summary(version) for version in saved.values())]


@reviewing.get("/templates/{name}/{version}", responses=problems(404, 422))
def template(name: str, version: Annotated[int, Path(ge=1, le=999_999_999)], service: Served) -> TemplateText:
    """A template's text."""
    if saved := service.definitions.read("template", name, version):
        return TemplateText(**vars(_summary(saved)), text=saved.text)
    if (reference := f"{name}@{version}") not in list_templates():
        raise Problem(404, "unknown-template", "No such template", "GET /v1/templates lists them, as name@version")
    found = load_template(reference)
    return TemplateText(**vars(_of_file(found)), text=found.source)


@reviewing.post("/templates/validate", responses=BODY)
def validate(body: DraftTemplate) -> Linted:
    """What is wrong with a template, by its lines."""
    found = sandbox.findings(_lines(body.text))
    return Linted(problems=_found(found, note=False), notes=_found(found, note=True))


@reviewing.post("/templates/preview", responses=BODY)
def preview(body: PreviewRequest, service: Served) -> PreviewAnswer:
    """The prompt that a template makes of an offer."""
    offer = service.own(body.offer.read(asked_schema(service, body.schema_)))
    if isinstance(offer, Failure):
        kind = "unknown-schema" if offer.failure.reason == "unknown_category" else "invalid"
        raise Problem(422, kind, "The offer cannot be used", offer.failure.message)
    prompter = service.prompter(body.template)
    if (found := prompter.schema_for(offer)) is None:
        raise InputError("name the category of a served schema, or give attributes")
    text = prompter.template_for(found).source if body.text is None else _lines(body.text)
    # What was saved may loop over one offer alone.
    messages = sandbox.rendered(text, found, *prompter.shown(offer, found))
    return PreviewAnswer(schema_=found.reference, messages=[ShownMessage(**m) for m in messages])


@saving.post("/templates", responses=BODY | problems(409))
def save(body: SaveRequest, service: Served, key: Asking) -> SavedTemplate:
    """Save the next version of a template, or the first: `shelfwise serve --template NAME@VERSION` asks by it. The same text
    again is no new version."""
    text = _lines(body.text)
    found = sandbox.findings(text)
    if faults := [f"text: {f.where}: {f.message}" for f in found if not f.note]:
        raise invalid(faults)
    version = service.definitions.save("template", body.name, text, body.from_version, key.name, _file(body.name))
    return SavedTemplate(**vars(_summary(version)), notes=_found(found, note=True))


def _lines(text: str) -> str:
    """As a file has them: a form sends line ends of its own."""
    return text.replace("\r\n", "\n")


def _file(name: str) -> Version | None:
    """The newest version of a template in a file."""
    numbers = [int(r.partition("@")[2]) for r in list_templates() if r.startswith(f"{name}@")]
    return unsaved(name, numbers[-1], load_template(f"{name}@{numbers[-1]}").source) if numbers else None


def _found(findings: Sequence[Finding], note: bool) -> list[Line]:
    chosen = [f for f in findings if f.note == note]
    lines = [f.where.rpartition(":")[2] for f in chosen]
    return [
        Line(line=int(line) if line.isdecimal() else None, message=f.message)
        for line, f in zip(lines, chosen, strict=True)
    ]


def _of_file(template: Template) -> TemplateSummary:
    reference, sha256 = template.reference, template.sha256
    return TemplateSummary(
        reference=reference, sha256=sha256, released=released().get(reference) == sha256, who=None, at=None
    )


def _summary(version: Version) -> TemplateSummary:
    reference = f"{version.name}@{version.number}"
    return TemplateSummary(reference=reference, sha256=version.sha256, released=True, who=version.who, at=version.at)
