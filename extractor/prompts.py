"""Templates: load name@version, render to chat messages, release.

A template is a Jinja file. It writes messages by calling `message(role)`:

    {% call message("system") %}Extract …{% endcall %}
    {% call message("user") %}<title>{{ offer.title }}</title>{% endcall %}

so that roles are out of reach of any text. It may use: `category`, `description` (of the category), `attributes` (name,
description, examples, type, values, unit, multiple), `demonstrations` (title, description, known, answer) and `offer` (title,
description, known); `attributes | without("description", "examples")` leaves these fields of the attributes empty. `known`
are the known values in the text, in the form of an answer ('{"Brand": ["Karu"]}'), or empty. Seller text arrives neutralized (see
`neutralize`).

A folder of templates is <name>/<version>.jinja and released.yaml, which holds the hash of each version that was released:
`extractor.lint` finds one that was edited since.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import jinja2
import jinja2.sandbox
import yaml

from extractor.answer import write_answer, write_known
from extractor.errors import TemplateError
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
TEMPLATES = PROMPTS / "templates"
ROLES = ("system", "user", "assistant")
OPTIONAL: dict[str, object] = {"description": None, "examples": ()}  # what a prompt can do without, of an attribute
RELEASED = "released.yaml"
SILENT = "the template writes no message; wrap its text in call message(role)"

# `<` where a tag or a special token could begin (<|im_end|>, </title>, <s>, <｜User｜>, <<SYS>>), and `[` of [INST] and its kin.
_MARKER = re.compile(r"<(?=[|/!?<a-zA-Z\uff5c])|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_[A-Z]+)\])")
_HARMLESS = {"<": "\u2039", "[": "\u2045"}


Known = Callable[[AttributeSchema, ProductOffer], Mapping[str, Sequence[str]]]  # attribute -> values


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
    known: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Template:
    """A prompt template. `sha256` is of its source; `reference` is name@version."""

    reference: str
    path: Path
    source: str
    sha256: str
    _render: Callable[..., str] = field(compare=False)

    def render(
        self,
        schema: AttributeSchema,
        offer: ProductOffer,
        demonstrations: Sequence[LabelledOffer] = (),
        known: Known = lambda schema, offer: {},
    ) -> list[Message]:
        """Chat messages for one offer. `known` gives the known values in an offer's text, as `Vocabulary.known` does. Raises
        TemplateError with the line of an undefined variable."""
        messages: list[Message] = []

        def message(role: str, caller: Callable[[], str]) -> str:
            if role not in ROLES:
                raise TemplateError(f"{self.path}: message({role!r}): a role is one of {', '.join(ROLES)}")
            messages.append({"role": role, "content": str(caller())})
            return ""

        category = schema.category or offer.category or ""
        variables = {
            # A category may come from a seller's feed: one short line, without markers.
            "category": neutralize(" ".join(category.split())[:100]),
            "description": schema.description,
            "attributes": schema.attributes,
            "demonstrations": [_shown(d, schema, known) for d in demonstrations],
            "offer": _shown(offer, schema, known),
            "message": message,
        }
        try:
            self._render(**variables)
        except TemplateError:
            raise
        except Exception as error:  # a template is a program of its own, and can do all that is wrong
            raise TemplateError(
                f"{self.path}{_line(error, self.path)}: {str(error) or type(error).__name__}"
            ) from error
        if not messages:
            raise TemplateError(f"{self.path}: {SILENT}")
        return messages


def _shown(offer: ProductOffer, schema: AttributeSchema, known: Known) -> _ShownOffer:
    description = neutralize(offer.description) if offer.description else None
    answer = write_answer(schema, _neutralized(offer.attributes)) if isinstance(offer, LabelledOffer) else ""
    found = known(schema, offer)
    return _ShownOffer(neutralize(offer.title), description, write_known(_neutralized(found)) if found else "", answer)


def _neutralized(values: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {name: [neutralize(v) for v in found] for name, found in values.items()}


def _line(error: Exception, path: Path) -> str:
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
        (_ShownOffer, name) for name in ("title", "description", "known", "answer")
    }

    def getattr(self, obj: object, attribute: str) -> object:
        if (type(obj), attribute) in self._plain:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


def without(attributes: Sequence[Attribute], *fields: str) -> list[Attribute]:
    """The filter `without`: the attributes with some of OPTIONAL left empty."""
    if unknown := sorted(set(fields) - set(OPTIONAL)):
        raise jinja2.TemplateRuntimeError(f"without({unknown[0]!r}): there are {', '.join(OPTIONAL)}")
    return [a.model_copy(update={f: OPTIONAL[f] for f in fields}) for a in attributes]


_ENVIRONMENT = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False, autoescape=False)
_ENVIRONMENT.filters["without"] = without


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
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}: not UTF-8 (byte {error.start})") from error
    if reference.endswith(".jinja"):
        reference = f"{path.stem}@{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    return compile_template(source, reference, path)


def compile_template(source: str, reference: str, path: Path) -> Template:
    """`path` is what errors name. Raises TemplateError. What folds a constant takes as long, and as much memory, as the template
    says: see `extractor.sandbox` for one of unknown hands."""
    try:
        code = _ENVIRONMENT.compile(source, name=reference, filename=str(path))
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{path}:{error.lineno}: {error.message}") from error
    except MemoryError as error:
        raise TemplateError(f"{path}: takes too much memory") from error
    except (SyntaxError, RecursionError) as error:  # of Python, which reads what Jinja makes of it
        raise TemplateError(f"{path}: nested too deeply") from error
    compiled = jinja2.Template.from_code(_ENVIRONMENT, code, {})
    return Template(reference, path, source, hashlib.sha256(source.encode()).hexdigest(), compiled.render)


def released(root: Path = TEMPLATES) -> dict[str, str]:
    """name@version -> SHA-256 of its source, of what was released; empty without a record. Raises TemplateError."""
    path = root / RELEASED
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TemplateError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(x, str) for pair in found.items() for x in pair):
        raise TemplateError(f"{path}: expected lines of name@version: hash")
    return found


def release(template: Template, root: Path = TEMPLATES) -> bool:
    """Record a version's hash; False if it stands there already. Raises TemplateError if it stands there with another."""
    record = released(root)
    if template.reference not in list_templates(root):
        raise TemplateError(f"{template.reference}: only a version in {root} can be released, as name@version")
    if template.reference in record:
        if record[template.reference] == template.sha256:
            return False
        raise TemplateError(
            f"{template.path}: {template.reference} was released with other text, and a released version never changes;"
            " restore it, and save the new text under the next version"
        )
    lines = yaml.safe_dump(record | {template.reference: template.sha256}, sort_keys=True)
    (root / RELEASED).write_text(lines, encoding="utf-8")
    return True
