"""Sessions of people in a browser: a key is shown once, and a cookie stands for it until it ends."""

import hashlib
import hmac
import secrets

from sqlalchemy import delete, insert, select

from extractor.database import Database
from extractor.database.tables import sessions
from extractor.journal import note
from extractor.keys import Key, alive, hashed

HOURS = 12.0


class Sessions:
    def __init__(self, database: Database) -> None:
        self.database = database

    def begin(self, key: Key) -> str:
        """The token of a new session, which is nowhere else."""
        token, now = secrets.token_urlsafe(32), self.database.now()
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires <= now))
            row = {"hash": hashed(token), "key": key.id, "created": now, "expires": self.database.now(HOURS * 3600)}
            connection.execute(insert(sessions).values(row))
            note(self.database, connection, key.name, "sign in", key.id)
        return token

    def check(self, token: str) -> Key | None:
        """The key of a session that has not ended, unless the key is expired or revoked."""
        now = self.database.now()
        query = select(sessions.c.key).where(sessions.c.hash == hashed(token), sessions.c.expires > now)
        with self.database.reading() as connection:
            identity = connection.scalar(query)
            return None if identity is None else alive(connection, identity, now)

    def end(self, token: str) -> None:
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == hashed(token)))


def csrf(token: str) -> str:
    """What a page of this session proves itself by: another site can make a browser send its cookie, but not read it."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()
