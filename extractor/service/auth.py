"""Who may do what, and how often."""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from fastapi import Request

from extractor.keys import ROLES, Key, Keys, Role
from extractor.service.problems import Problem, retry

FRESH = 1.0  # seconds after which a key is looked up again, so that one that is revoked is refused a second later
ANYBODY = Key("anonymous", "anonymous", ROLES[-1], "", None, None, None)


@dataclass
class Bucket:
    """A token bucket: `rate` requests a second, and as many at once as came in a second before nobody asked."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    tokens: float = field(init=False)
    at: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens, self.at = max(1.0, self.rate), self.clock()

    def take(self) -> float:
        """Seconds until there is one; 0 where one was taken."""
        now = self.clock()
        self.tokens, self.at = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate), now
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return 0.0


class Access:
    """`keys` None lets anybody in who is on this machine; `rate` is in requests a second and key, None for any."""

    def __init__(self, keys: Keys | None, rate: float | None = None) -> None:
        self._keys, self._rate = keys, rate
        self._known: dict[
            bytes, tuple[float, Key]
        ] = {}  # hash of a secret -> until when it holds without a look; valid keys alone
        self._looking: dict[bytes, asyncio.Future[Key | None]] = {}
        self._buckets: dict[str, Bucket] = {}  # of keys that exist, so that there are no more than keys

    async def admit(self, request: Request, role: Role) -> Key:
        """Raises Problem 401, 403 or 429."""
        key = await self._key(request)
        request.state.facts["key"] = key.id
        if not key.allows(role):
            raise Problem(
                403,
                "role",
                "The key may not do this",
                f"this takes the role {role}, and the key has {key.role}; ask for another",
            )
        if self._rate is not None:
            wait = self._buckets.setdefault(key.id, Bucket(self._rate)).take()
            if wait:
                detail = (
                    f"at most {self._rate:g} requests a second are taken of one key; put more offers into each request"
                )
                raise Problem(429, "rate", "Too many requests", detail, retry(math.ceil(wait)))
        return key

    async def _key(self, request: Request) -> Key:
        if self._keys is None:
            # A page elsewhere whose name was made to lead here has that name in Host.
            if not is_loopback(_named(request)):
                detail = "without keys this service answers to localhost alone; start it with keys for other names"
                raise Problem(403, "host", "Not for this host", detail)
            return ANYBODY
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        bearer = scheme.lower() == "bearer"
        key = await self._checked(self._keys, secret.strip()) if bearer else None
        if key is None:
            detail = (
                "the key is unknown, expired or revoked; ask whoever runs the service for another"
                if bearer
                else "send a key, made by `shelfwise keys create`, as Authorization: Bearer KEY"
            )
            raise Problem(401, "key", "No valid key", detail, {"WWW-Authenticate": "Bearer"})
        return key

    async def _checked(self, keys: Keys, secret: str) -> Key | None:
        digest, now = hashlib.sha256(secret.encode()).digest(), time.monotonic()
        until, known = self._known.get(digest, (0.0, None))
        if known and now < until:
            return known
        if (looking := self._looking.get(digest)) is None:
            # Requests that come together with a key look once: each might want to note its use.
            looking = self._looking[digest] = asyncio.ensure_future(run_sync(keys.check, secret))
            looking.add_done_callback(lambda _: self._looking.pop(digest))
        if key := await asyncio.shield(looking):
            self._known[digest] = now + FRESH, key
        else:
            self._known.pop(digest, None)
        return key


def is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _named(request: Request) -> str:
    """The host that a client believes to speak to."""
    with suppress(ValueError):
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return ""
