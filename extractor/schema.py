"""Attribute schemas: what to extract from the offers of a category. YAML in, fingerprint out."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from extractor.errors import SchemaError

AttributeType = Literal["text", "enum", "number", "boolean"]


class Attribute(BaseModel):
    """One attribute. `values` is the closed vocabulary of an enum, `unit` the unit in which a number is wanted; `vocabulary` are
    known values of a text: in YAML a list, or the name of a file beside it with one value a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    description: str | None = None
    examples: tuple[str, ...] = ()
    type: AttributeType = "text"
    values: tuple[str, ...] = ()
    unit: str | None = None
    multiple: bool = Field(default=False, strict=True)
    vocabulary: tuple[str, ...] = ()

    @field_validator(
        "examples", "values", "vocabulary", mode="before", json_schema_input_type=tuple[str | int | float, ...]
    )
    @classmethod
    def _scalars_to_text(cls, items: Any) -> Any:
        # YAML reads `examples: [42, 7.5]` as numbers; merchandisers mean the text.
        if isinstance(items, list):
            return [str(i) if isinstance(i, int | float) and not isinstance(i, bool) else i for i in items]
        return items

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type == "enum" and not self.values:
            raise ValueError("type enum needs `values`, the list of allowed values")
        if self.type != "enum" and self.values:
            raise ValueError(f"`values` belongs to type enum, not {self.type}")
        if self.vocabulary and self.type != "text":
            raise ValueError(f"`vocabulary` belongs to type text, not {self.type}")
        if self.unit and self.type != "number":
            raise ValueError(f"`unit` belongs to type number, not {self.type}")
        if self.type == "boolean" and self.multiple:
            raise ValueError("a boolean has one value; remove `multiple`")
        if len(set(self.values)) < len(self.values):
            raise ValueError("`values` lists a value twice")
        allowed = set(self.values)
        if self.values and (stray := [e for e in self.examples if e not in allowed]):
            raise ValueError(f"example {stray[0]!r} is not among `values`")
        return self


class AttributeSchema(BaseModel):
    """The attributes of a category. `category` None serves every category."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: str | None = None
    description: str | None = None
    attributes: tuple[Attribute, ...] = Field(min_length=1)

    @field_validator("attributes")
    @classmethod
    def _distinct(cls, attributes: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        if twice := sorted(name for name, n in Counter(a.name for a in attributes).items() if n > 1):
            raise ValueError(f"attribute {twice[0]!r} stands twice")
        return attributes

    @model_validator(mode="after")
    def _is_unicode(self) -> Self:
        try:
            self.fingerprint  # noqa: B018
        except UnicodeEncodeError as error:
            raise ValueError("half a surrogate pair, which is no text") from error
        return self

    @classmethod
    def from_names(cls, names: Iterable[str], category: str | None = None) -> Self:
        """A zero-shot schema: text attributes with nothing but their names."""
        cleaned = [n.strip() for n in names if n.strip()]
        if not cleaned:
            raise SchemaError("no attribute names given; write for example --attributes 'Brand,Color,Size'")
        try:
            return cls(category=category, attributes=tuple(Attribute(name=n) for n in cleaned))
        except ValidationError as error:
            raise SchemaError(f"--attributes: {reason(error.errors()[0])}") from error

    def written(self) -> dict[str, Any]:
        """As JSON, without what is left at its default: one form for each schema."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with anything a prompt or a constraint could show. What is left at its default
        does not count, so that a schema keeps its fingerprint when attributes learn a new field."""
        text = json.dumps(self.written(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def reference(self) -> str:
        """category@fingerprint, as provenance names it."""
        return f"{(self.category or 'any').lower().replace(' ', '-')}@{self.fingerprint}"


def load_schema(path: Path) -> AttributeSchema:
    """Read one YAML file. Raises SchemaError with file, line and key."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise SchemaError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SchemaError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise SchemaError(f"{path}:1: expected keys `category` and `attributes`")
    _refuse_repeated_keys(path, node)
    data = yaml.SafeLoader("").construct_document(node)
    _read_vocabularies(path, data)
    try:
        return AttributeSchema.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(p) for p in problem["loc"])
        raise SchemaError(
            f"{path}:{_line_of(node, problem['loc'])}: {where + ': ' if where else ''}{reason(problem)}"
        ) from error


def _read_vocabularies(path: Path, data: Any) -> None:
    """Put the lines of each vocabulary file in the place of its name."""
    attributes = data.get("attributes")
    for row in attributes if isinstance(attributes, list) else ():
        if isinstance(row, dict) and isinstance(name := row.get("vocabulary"), str):
            try:
                lines = (path.parent / name).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise SchemaError(f"{path}: vocabulary {name} of {row.get('name')!r} cannot be read: {why}") from error
            row["vocabulary"] = [line.strip() for line in lines if line.strip()]


def load_schemas(path: Path) -> list[AttributeSchema]:
    """Read a file, or every *.yaml and *.yml of a folder. Two schemas of one category are refused."""
    if not path.exists():
        raise SchemaError(f"{path}: no such file or folder")
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
    if not files:
        raise SchemaError(f"{path}: the folder holds no *.yaml file")
    schemas: dict[str, tuple[Path, AttributeSchema]] = {}
    for file in files:
        schema = load_schema(file)
        if schema.category is None and len(files) > 1:
            raise SchemaError(f"{file}:1: `category` is missing; in a folder each schema needs one")
        key = category_key(schema.category)
        if key in schemas:
            raise SchemaError(f"{file}: category {schema.category!r} is already defined in {schemas[key][0]}")
        schemas[key] = (file, schema)
    return [schema for _, schema in schemas.values()]


def category_key(category: str | None) -> str:
    """How categories are compared: without case and outer white space."""
    return (category or "").strip().casefold()


def schema_of(category: str | None, schemas: Sequence[AttributeSchema]) -> AttributeSchema | None:
    """The schema of a category, or the only one there is."""
    if len(schemas) == 1:
        return schemas[0]
    return next((s for s in schemas if category_key(s.category) == category_key(category)), None)


def reason(problem: Any) -> str:
    """What pydantic says of a schema, in the words of this page."""
    if problem["type"] == "extra_forbidden":
        known = Attribute.model_fields if "attributes" in problem["loc"] else AttributeSchema.model_fields
        return f"unknown key; known keys are {', '.join(known)}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _line_of(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """The line of the deepest node that `location` leads to."""
    line = node.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == part]
            if not found:
                break
            line, node = found[0][0].start_mark.line, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise SchemaError(f"{path}:{key.start_mark.line + 1}: key `{key.value}` stands twice")
            seen.add(key.value)
            _refuse_repeated_keys(path, value)
