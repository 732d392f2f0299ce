"""Schemas and templates that were written in the service: each save is a version, and a version never changes."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, func, select

from extractor.database import Database
from extractor.database.tables import versions
from extractor.errors import ConflictError, InputError, SchemaError, explain
from extractor.journal import note
from extractor.prompts import Template, compile_template, list_templates, load_template
from extractor.schema import AttributeSchema

Kind = Literal["schema", "template"]


@dataclass(frozen=True)
class Version:
    """`name` is the key of a schema's category, or the template's name; version 0 of a schema is the file that a service was
    started with, and belongs to nobody."""

    name: str
    number: int
    text: str
    sha256: str
    who: str | None = None
    at: str | None = None


def written(schema: AttributeSchema) -> str:
    """How a version holds it."""
    return json.dumps(schema.written(), ensure_ascii=False)


def read_schema(version: Version) -> AttributeSchema:
    """Raises SchemaError: a newer program may have saved it."""
    try:
        return AttributeSchema.model_validate_json(version.text)
    except ValidationError as error:
        raise SchemaError(
            f"schema {version.name!r}, version {version.number}: {explain(error)}; update shelfwise"
        ) from error


def readable(versions: Iterable[Version]) -> Iterator[tuple[AttributeSchema, Version]]:
    """Schemas and their versions, without those that only a newer program can read."""
    for version in versions:
        with suppress(SchemaError):
            yield read_schema(version), version


def unsaved(name: str, number: int, text: str) -> Version:
    """What stands in a file."""
    return Version(name, number, text, hashlib.sha256(text.encode()).hexdigest())


class Definitions:
    def __init__(self, database: Database) -> None:
        self.database = database

    def save(self, kind: Kind, name: str, text: str, after: int, who: str, file: Version | None = None) -> Version:
        """The next version, for an editor who started from version `after` (0: from nothing); the newest one where that has this
        text. Where nothing is saved yet, `file` is the newest. Raises ConflictError where somebody saved in between."""
        with self.database.writing() as connection:
            while True:  # at most twice: what was in the way is the newest then
                newest = self._newest(connection, kind, name)
                if file and (newest is None or newest.number < file.number):
                    newest = file
                if newest and newest.text == text:
                    return newest
                if (number := newest.number if newest else 0) != after:
                    by = f" by {newest.who}" if newest and newest.who else ""
                    raise ConflictError(
                        f"{kind} {name!r}: version {number} was saved{by} since version {after}, from which this one started; "
                        "look at what changed, and save on top of it"
                    )
                made = Version(name, number + 1, text, unsaved(name, 0, text).sha256, who, self.database.now())
                row = vars(made) | {"kind": kind}
                statement = self.database.upsert(versions).values(row).on_conflict_do_nothing()
                if connection.scalar(statement.returning(versions.c.number)):
                    note(self.database, connection, who, f"save {kind}", f"{name}@{made.number} {made.sha256[:12]}")
                    return made

    def numbers(self, kind: Kind) -> dict[str, int]:
        """The newest version of each name."""
        newest = func.max(versions.c.number).label("newest")
        query = select(versions.c.name, newest).where(versions.c.kind == kind).group_by(versions.c.name)
        with self.database.reading() as connection:
            return {row.name: row.newest for row in connection.execute(query)}

    def versions(self, kind: Kind, name: str | None = None) -> list[Version]:
        """All, or those of a name: by name, the newest first."""
        query = select(versions).where(versions.c.kind == kind).order_by(versions.c.name, versions.c.number.desc())
        if name is not None:
            query = query.where(versions.c.name == name)
        with self.database.reading() as connection:
            return [_version(row) for row in connection.execute(query).mappings()]

    def read(self, kind: Kind, name: str, number: int) -> Version | None:
        found = (versions.c.kind == kind) & (versions.c.name == name) & (versions.c.number == number)
        with self.database.reading() as connection:
            row = connection.execute(select(versions).where(found)).mappings().one_or_none()
        return None if row is None else _version(row)

    def template(self, reference: str) -> Template:
        """name@version of a file or of the store, or a name: its newest file, for what is saved is used by its number, or where
        there is no file, the newest in the store. Raises InputError; a path is no reference."""
        name, _, version = reference.partition("@")
        files = [r for r in list_templates() if r.startswith(f"{name}@")]
        stored = None
        if re.fullmatch("[1-9][0-9]{0,8}", version):
            stored = self.read("template", name, int(version))
        elif not version and not files:
            stored = next(iter(self.versions("template", name)), None)
        if stored:
            reference = f"{name}@{stored.number}"
            return compile_template(stored.text, reference, Path(reference))
        if reference in files or (reference == name and files):
            return load_template(reference)
        known = ", ".join([*list_templates(), *(f"{v.name}@{v.number}" for v in self.versions("template"))])
        raise InputError(f"no template {reference!r}; there are {known}")

    def _newest(self, connection: Connection, kind: Kind, name: str) -> Version | None:
        found = select(versions).where((versions.c.kind == kind) & (versions.c.name == name))
        row = connection.execute(found.order_by(versions.c.number.desc()).limit(1)).mappings().one_or_none()
        return None if row is None else _version(row)


def _version(row: RowMapping) -> Version:
    return Version(**{name: value for name, value in row.items() if name != "kind"})
