"""Templates: load name@version, render to chat messages, lint.

A template is a Jinja file. It writes messages by calling `message(role)`:

    {% call message("system") %}Extract …{% endcall %}
    {% call message("user") %}<title>{{ offer.title }}</title>{% endcall %}

so that roles are out of reach of any text. It may use: `category`, `description` (of the category), `attributes` (name,
description, examples, type, values, unit, multiple), `demonstrations` (title, description, answer) and `offer` (title,
description). Seller text arrives neutralized (see `neutralize`).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import jinja2
import jinja2.meta
import jinja2.sandbox

from extractor.answer import write_answer
from extractor.errors import TemplateError
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
TEMPLATES = PROMPTS / "templates"
VARIABLES = {"category", "description", "attributes", "demonstrations", "offer", "message"}
ROLES = ("system", "user", "assistant")

# `<` where a tag or a special token could begin (<|im_end|>, </title>, <s>, <｜User｜>, <<SYS>>), and `[` of [INST] and its kin.
_MARKER = re.compile(r"<(?=[|/!?<a-zA-Z\uff5c])|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_[A-Z]+)\])")
_HARMLESS = {"<": "\u2039", "[": "\u2045"}


class Message(TypedDict):
    role: str
    content: str


def neutralize(text: str) -> str:
    """Text in which no special token, chat role or delimiter can be read.

    One code point replaces one code point, so that offsets into the result are offsets into the original. Idempotent.
    """
    return _MARKER.sub(lambda match: _HARMLESS[match[0]], text)


@dataclass(frozen=True, slots=True)
class _ShownOffer:
    title: str
    description: str | None
    answer: str = ""


@dataclass(frozen=True)
class Template:
    """A prompt template. `sha256` is of its source; `reference` is name@version."""

    reference: str
    path: Path
    source: str
    sha256: str
    _render: Callable[..., str]

    def render(
        self, schema: AttributeSchema, offer: ProductOffer, demonstrations: Sequence[LabelledOffer] = ()
    ) -> list[Message]:
        """Chat messages for one offer. Raises TemplateError with the line of an undefined variable."""
        messages: list[Message] = []

        def message(role: str, caller: Callable[[], str]) -> str:
            if role not in ROLES:
                raise TemplateError(f"{self.path}: message({role!r}): a role is one of {', '.join(ROLES)}")
            messages.append({"role": role, "content": str(caller())})
            return ""

        category = schema.category or offer.category or ""
        try:
            self._render(
                # A category may come from a seller's feed: one short line, without markers.
                category=neutralize(" ".join(category.split())[:100]),
                description=schema.description,
                attributes=schema.attributes,
                demonstrations=[_shown(d, schema) for d in demonstrations],
                offer=_shown(offer),
                message=message,
            )
        except jinja2.TemplateError as error:
            raise TemplateError(f"{self.path}{_line(error, self.path)}: {error}") from error
        if not messages:
            raise TemplateError(f"{self.path}: the template writes no message; wrap its text in call message(role)")
        return messages


def _shown(offer: ProductOffer, schema: AttributeSchema | None = None) -> _ShownOffer:
    description = neutralize(offer.description) if offer.description else None
    answer = ""
    if schema and isinstance(offer, LabelledOffer):
        answer = write_answer(schema, {k: [neutralize(v) for v in vs] for k, vs in offer.attributes.items()})
    return _ShownOffer(neutralize(offer.title), description, answer)


def _line(error: jinja2.TemplateError, path: Path) -> str:
    """`:LINE` of the template, read off the traceback that Jinja rewrites to template lines."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f":{error.lineno}"
    line, traceback = 0, error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f":{line}" if line else ""


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with a short way for the fields that every template reads: its checks took 4/5 of a rendering."""

    _plain = {(Attribute, name) for name in Attribute.model_fields} | {
        (_ShownOffer, name) for name in ("title", "description", "answer")
    }

    def getattr(self, obj: object, attribute: str) -> object:
        if (type(obj), attribute) in self._plain:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


_ENVIRONMENT = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False, autoescape=False)


def list_templates(root: Path = TEMPLATES) -> list[str]:
    """name@version of every template, by name and version."""
    found = [(p.parent.name, int(p.stem)) for p in root.glob("*/*.jinja") if p.stem.isdigit()]
    return [f"{name}@{version}" for name, version in sorted(found)]


@lru_cache(maxsize=64)
def load_template(reference: str, root: Path = TEMPLATES) -> Template:
    """Load `name` (its newest version), `name@version`, or a path to a .jinja file."""
    if reference.endswith(".jinja"):
        path = Path(reference)
        if not path.is_file():
            raise TemplateError(f"{path}: no such template file")
    else:
        name, _, version = reference.partition("@")
        versions = [r.partition("@")[2] for r in list_templates(root) if r.startswith(f"{name}@")]
        if not versions or (version and version not in versions):
            raise TemplateError(
                f"no template {reference!r}; known are {', '.join(list_templates(root))}, or name a .jinja file"
            )
        version = version or versions[-1]
        reference, path = f"{name}@{version}", root / name / f"{version}.jinja"
    try:
        source = path.read_text(encoding="utf-8")
        code = _ENVIRONMENT.compile(source, name=reference, filename=str(path))
        compiled = jinja2.Template.from_code(_ENVIRONMENT, code, {})
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}: not UTF-8 (byte {error.start})") from error
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{path}:{error.lineno}: {error.message}") from error
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    if reference.endswith(".jinja"):
        reference = f"{path.stem}@{sha256[:12]}"
    return Template(reference, path, source, sha256, compiled.render)


def lint_template(template: Template) -> list[str]:
    """What is wrong with a template, one line each; empty if nothing is."""
    unknown = jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(template.source)) - VARIABLES
    findings = [
        f"{template.path}:{_first_line(template.source, name)}: unknown variable {name!r};"
        f" a template may use {', '.join(sorted(VARIABLES))}"
        for name in sorted(unknown)
    ]
    if findings:
        return findings
    schema = AttributeSchema.from_names(["Brand", "Lint probe"], category="Probe category")
    probe = ProductOffer(id="probe", title="probe title", description="probe description")
    example = LabelledOffer(id="d", title="other title", attributes={"Brand": ["other"]}, absent=["Lint probe"])
    try:
        plain, few = template.render(schema, probe), template.render(schema, probe, [example])
    except TemplateError as error:
        return [str(error)]
    prompt = "\n".join(m["content"] for m in plain)
    for needed, meaning in [
        ("probe title", "offer.title"),
        ("probe description", "offer.description"),
        ("Lint probe", "the attribute names"),
        ("Probe category", "the category"),
    ]:
        if needed not in prompt:
            findings.append(f"{template.path}: the prompt never shows {meaning}")
    if plain[-1]["role"] != "user" or "probe title" not in plain[-1]["content"]:
        findings.append(f"{template.path}: the last message must be the user's, with the offer")
    if few == plain:
        findings.append(f"{template.path}: demonstrations never reach the prompt")
    elif write_answer(schema, example.attributes) not in [m["content"] for m in few if m["role"] == "assistant"]:
        findings.append(f"{template.path}: a demonstration's answer must be an assistant message of its own")
    if any("probe title" in m["content"] for m in plain[:-1]):
        findings.append(f"{template.path}: the offer stands before the last message, which defeats the prefix cache")
    return findings


def _first_line(source: str, name: str) -> int:
    match = re.search(rf"\b{re.escape(name)}\b", source)
    return source.count("\n", 0, match.start()) + 1 if match else 1
