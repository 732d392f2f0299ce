"""API keys: shown once, kept as hashes."""

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, insert, select, update

from extractor.database import Database
from extractor.database.tables import keys
from extractor.errors import InputError, StorageError
from extractor.journal import note

Role = Literal["extract", "review", "admin"]  # each may do what those before it may
ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "sw"  # by which scanners for leaked secrets, and people, know a key
_SEEN = 60.0  # seconds after which a use is noted again, so that a busy key does not write at every request


@dataclass(frozen=True)
class Key:
    """Times are ISO 8601 in UTC, None for never; `used` is right to the minute."""

    id: str
    name: str
    role: Role
    created: str
    expires: str | None
    revoked: str | None
    used: str | None

    @property
    def who(self) -> str:
        """As whom reviews and jobs know it: two keys of one name are two people, all sessions of a key are one."""
        return self.id if self.name == self.id else f"{self.name} ({self.id})"

    @property
    def owners(self) -> tuple[str, str]:
        """Who a job of this key may belong to: the first ones belonged to a name."""
        return self.who, self.name

    def allows(self, role: Role) -> bool:
        return ROLES.index(role) <= ROLES.index(self.role)


class Keys:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._tried: dict[str, str] = {}  # id of a key -> when it was tried last to note its use

    def create(self, name: str, role: str, days: float | None, who: str) -> tuple[Key, str]:
        """The key, and its secret, which is nowhere else. `days` until it expires, None for never. Raises InputError for a role
        that is none of ROLES."""
        if role not in ROLES:
            raise InputError(f"role {role!r}: roles are {', '.join(ROLES)}")
        identity, token = secrets.token_hex(6), secrets.token_urlsafe(32)
        expires = None if days is None else self.database.now(days * 86_400)
        key = Key(identity, name, role, self.database.now(), expires, None, None)
        with self.database.writing() as connection:
            connection.execute(insert(keys).values(hash=hashed(token), **vars(key)))
            note(self.database, connection, who, "keys create", f"{identity} {role} {name}")
        return key, f"{PREFIX}_{identity}_{token}"

    def check(self, secret: str) -> Key | None:
        """The key of a secret, unless it is unknown, expired or revoked. A store that can be read alone is enough."""
        _, identity, token = (*secret.split("_", 2), "", "")[:3]
        known = keys.c.id == (identity if identity.isascii() and identity.isalnum() else "")
        with self.database.reading() as connection:
            row = connection.execute(select(keys).where(known)).one_or_none()
        # An unknown key takes the same path: the time tells nothing about which keys there are.
        right = hmac.compare_digest(hashed(token), row.hash if row else hashed(""))
        now = self.database.now()
        if row is None or not right or not _valid(row, now):
            return None
        if max(row.used or "", self._tried.get(row.id, "")) <= self.database.now(-_SEEN):
            self._tried[row.id] = now
            with suppress(StorageError), self.database.writing() as connection:
                connection.execute(update(keys).where(keys.c.id == row.id).values(used=now))
        return _key(row)

    def all(self) -> list[Key]:
        with self.database.reading() as connection:
            return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created, keys.c.id))]

    def revoke(self, identity: str, who: str) -> None:
        """For ever. Raises InputError for an unknown id; a second time changes nothing."""
        with self.database.writing() as connection:
            if connection.execute(select(keys.c.id).where(keys.c.id == identity)).one_or_none() is None:
                raise InputError(f"no key {identity!r}; shelfwise keys list")
            alive = (keys.c.id == identity) & keys.c.revoked.is_(None)
            if connection.execute(update(keys).where(alive).values(revoked=self.database.now())).rowcount:
                note(self.database, connection, who, "keys revoke", identity)


def name_of(who: str) -> str:
    """What people call the key that is known as this."""
    return re.sub(r" \([0-9a-f]{12}\)$", "", who)


def alive(connection: Connection, identity: str, now: str) -> Key | None:
    """The key with this id, unless it is expired or revoked."""
    row = connection.execute(select(keys).where(keys.c.id == identity)).one_or_none()
    return _key(row) if row and _valid(row, now) else None


def _valid(row: Any, now: str) -> bool:
    return not row.revoked and (row.expires is None or row.expires > now)


def _key(row: object) -> Key:
    return Key(**{name: getattr(row, name) for name in Key.__dataclass_fields__})


def hashed(token: str) -> str:
    """What is kept of a token."""
    # One round of SHA-256: a token has 256 random bits, which no dictionary holds, so a slow hash would only slow requests.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
