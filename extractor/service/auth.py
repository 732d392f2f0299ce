"""Who may do what, and how often."""

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request

from extractor.keys import ROLES, Key, Keys, Role
from extractor.service.problems import Problem, retry
from extractor.sessions import Sessions, csrf

COOKIE, TOKEN = "shelfwise", "x-csrf-token"
READING = ("GET", "HEAD")
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
    """By a key, or the cookie of a session that was begun with one. `keys` None lets anybody in who is on this machine; `rate` is
    in requests a second and key, None for any."""

    def __init__(self, keys: Keys | None, rate: float | None = None) -> None:
        self.keys, self._rate = keys, rate
        self.sessions = Sessions(keys.database) if keys else None
        self._known: dict[
            bytes, tuple[float, Key]
        ] = {}  # hash of a secret -> until when it holds without a look; valid keys alone
        self._threads = CapacityLimiter(4)  # of its own, for requests wait in those that all share
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
        if self.keys is None or self.sessions is None:
            # A page elsewhere whose name was made to lead here has that name in Host.
            if not is_loopback(_named(request)):
                detail = "without keys this service answers to localhost alone; start it with keys for other names"
                raise Problem(403, "host", "Not for this host", detail)
            if request.method not in READING:
                refuse_other_sites(request)
            return ANYBODY
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if key := await self._checked(self.keys.check, secret.strip()):
                return key
            detail = "the key is unknown, expired or revoked; ask whoever runs the service for another"
        elif token := request.cookies.get(COOKIE):
            if key := await self._checked(self.sessions.check, token):
                if request.method not in READING:
                    refuse_other_sites(request)
                    if not hmac.compare_digest(request.headers.get(TOKEN, "").encode(), csrf(token).encode()):
                        detail = f"a session changes nothing without the header {TOKEN}; load the page again"
                        raise Problem(403, "csrf", "Not from a page of this service", detail)
                return key
            detail = "the session has ended; sign in again"
        else:
            detail = "send a key, made by `shelfwise keys create`, as Authorization: Bearer KEY, or sign in"
        raise Problem(401, "key", "No valid key", detail, {"WWW-Authenticate": "Bearer"})

    def leave(self, token: str) -> None:
        """End a session at once."""
        if self.sessions:
            self.sessions.end(token)
        self._known.pop(hashlib.sha256(token.encode()).digest(), None)

    async def _checked(self, check: Callable[[str], Key | None], secret: str) -> Key | None:
        digest, now = hashlib.sha256(secret.encode()).digest(), time.monotonic()
        until, known = self._known.get(digest, (0.0, None))
        if known and now < until:
            return known
        if (looking := self._looking.get(digest)) is None:
            # Requests that come together with a key look once: each might want to note its use.
            looking = self._looking[digest] = asyncio.ensure_future(run_sync(check, secret, limiter=self._threads))
            looking.add_done_callback(lambda _: self._looking.pop(digest))
        if key := await asyncio.shield(looking):
            self._known[digest] = now + FRESH, key
        else:
            self._known.pop(digest, None)
        return key


def refuse_other_sites(request: Request) -> None:
    """Raises Problem 403 for what a browser sends on behalf of a page elsewhere; who is no browser says nothing about it."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    _, _, host = origin.partition("://")  # a browser writes no path there, and what is no origin is no browser's
    if site not in (None, "same-origin", "none") or (origin and host != request.headers.get("host")):
        raise Problem(403, "csrf", "Not from a page of this service", "open the service itself, and do it there")


def is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _named(request: Request) -> str:
    """The host that a client believes to speak to."""
    with suppress(ValueError):
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return ""
