"""Who gets into the service, how often, and with how much: each attack is refused by a server on a loopback port."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import httpx
import pytest
from serving import OFFER, POST, problem, serving

from extractor.client import Client
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import InputError
from extractor.keys import Keys
from extractor.service.auth import COOKIE, TOKEN, Bucket
from extractor.sessions import HOURS, Sessions, csrf


def test_without_keys_only_this_machine_is_answered(live):
    for name in ("evil.example", "127.0.0.1.evil.example", "[", "a@b:c"):
        problem(live.http.get("/v1/schemas", headers={"Host": name}), 403, "host")
    assert live.http.get("/v1/schemas", headers={"Host": "localhost:1"}).status_code == 200


WAYS = {"extract": ["/v1/schemas", "/metrics"], "review": ["/v1/templates", "/v1/adapters"]}


@pytest.mark.parametrize(
    ("name", "extract", "review"),
    [
        *[("extract", 200, 403), ("review", 200, 200), ("admin", 200, 200)],
        *[(name, 401, 401) for name in ("expired", "revoked", "none", "nonsense", "forged", "long")],
    ],
)
def test_keys_and_roles(keyed, name, extract, review):
    running, secrets = keyed
    headers = {"Authorization": f"Bearer {secrets[name]}"}
    for path, status in [*((p, extract) for p in WAYS["extract"]), *((p, review) for p in WAYS["review"])]:
        response = running.http.get(path, headers=headers)
        assert response.status_code == status
        if status != 200:
            problem(response, status, {401: "key", 403: "role"}[status])
            assert len(secrets[name]) < 9 or secrets[name] not in response.text
        assert ("www-authenticate" in response.headers) == (status == 401)
    assert running.extract(OFFER, headers=headers).status_code == extract


def test_without_a_key_nothing_but_probes_is_open(keyed):
    running, secrets = keyed
    for path, routes in running.http.get("/openapi.json").json()["paths"].items():
        for method in routes:
            status = running.http.request(method, path, json={}).status_code
            assert status == (200 if path in ("/healthz", "/readyz") else 401), path
    assert running.http.get("/v1/schemas", headers={"Authorization": f"Basic {secrets['admin']}"}).status_code == 401
    assert running.http.get(f"/v1/schemas?key={secrets['admin']}").status_code == 401


def test_a_revoked_key_is_refused_a_second_later(keyed):
    running, _ = keyed
    keys = running.service.access.keys
    key, secret = keys.create("short", "extract", None, "test")
    with Client(running.url, secret) as client:
        assert len(client.schemas()) == 3
        keys.revoke(key.id, "test")
        running.until(lambda: client._http.get("/v1/schemas").status_code == 401)
        with pytest.raises(InputError, match="401 No valid key"):
            client.schemas()


def test_a_key_is_checked_however_many_requests_wait(keyed, monkeypatch):
    running, secrets = keyed
    begun, go = [], Event()
    monkeypatch.setattr(running.service.definitions, "versions", lambda *_: begun.append(1) or (go.wait(15) and []))
    reviewer, other = ({"Authorization": f"Bearer {secrets[role]}"} for role in ("review", "extract"))
    with ThreadPoolExecutor(45) as pool:
        asked = [pool.submit(running.http.get, "/v1/templates", headers=reviewer) for _ in range(45)]
        running.until(lambda: len(begun) == 40)  # all the threads that requests share
        try:
            body = {"offers": [OFFER]}
            assert running.http.post("/v1/extract", json=body, headers=other, timeout=5).status_code == 200
        finally:
            go.set()
        assert {a.result().status_code for a in asked} == {200}


@contextmanager
def signed_in(running, secret):
    """A browser's client, with the cookie of a session, and what its pages prove themselves by."""
    response = running.http.post("/v1/session", headers={"Authorization": f"Bearer {secret}"})
    assert response.status_code == 200 and secret not in response.headers["set-cookie"]
    (cookie,) = response.cookies.jar
    assert "HttpOnly" in response.headers["set-cookie"] and "SameSite=lax" in response.headers["set-cookie"]
    running.http.cookies.clear()
    with httpx.Client(base_url=running.url, cookies={COOKIE: cookie.value}, trust_env=False) as browser:
        yield browser, csrf(cookie.value)


def test_a_session_stands_for_its_key_until_it_is_left(keyed):
    running, secrets = keyed
    with signed_in(running, secrets["review"]) as (browser, token):
        cookies = dict(browser.cookies)
        assert browser.get("/v1/templates").status_code == 200
        assert browser.delete("/v1/session", headers={TOKEN: token}).status_code == 204
        browser.cookies.update(cookies)
        problem(browser.get("/v1/templates"), 401, "key")
    for name in ("expired", "revoked", "forged"):
        problem(running.http.post("/v1/session", headers={"Authorization": f"Bearer {secrets[name]}"}), 401, "key")


def test_a_session_ends_with_its_key_and_its_time(address, clock):
    database = Database(address, clock)
    keys, sessions = Keys(database), Sessions(database)
    key, _ = keys.create("a", "review", 0.9, "test")
    token = sessions.begin(key)
    assert sessions.check(token) == key and sessions.check(token + "x") is None and sessions.check("") is None
    clock.pass_by(HOURS * 3600 - 1)
    assert sessions.check(token) == key
    clock.pass_by(2)
    assert sessions.check(token) is None
    token = sessions.begin(key)
    clock.pass_by(HOURS * 3600 - 60)
    assert sessions.check(token) is None, "the key itself has expired"
    other, _ = keys.create("b", "review", None, "test")
    token = sessions.begin(other)
    keys.revoke(other.id, "test")
    assert sessions.check(token) is None
    database.close()


ELSEWHERE = [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}]
ELSEWHERE += [{"Origin": origin} for origin in ("http://[", "null", "http://", "//")]


@pytest.mark.parametrize("headers", [{}, {TOKEN: ""}, {TOKEN: "0" * 64}, *({TOKEN: "right"} | e for e in ELSEWHERE)])
def test_another_site_changes_nothing_with_a_session(keyed, headers):
    running, secrets = keyed
    body = {"offers": [OFFER]}
    with signed_in(running, secrets["admin"]) as (browser, token):
        headers = headers | ({TOKEN: token} if headers.get(TOKEN) == "right" else {})
        problem(browser.post("/v1/extract", json=body, headers=headers), 403, "csrf")
        own = {TOKEN: token, "Sec-Fetch-Site": "same-origin", "Origin": running.url}
        assert browser.post("/v1/extract", json=body, headers=own).status_code == 200


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_without_keys_another_site_changes_nothing_either(live, headers):
    problem(live.extract(OFFER, headers=headers), 403, "csrf")
    assert live.extract(OFFER, headers={"Origin": live.url, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_bucket():
    now = [0.0]
    bucket = Bucket(2.0, lambda: now[0])
    assert [bucket.take() for _ in range(3)] == [0, 0, 0.5]
    now[0] = 0.5
    assert bucket.take() == 0 and bucket.take() == 0.5
    now[0] = 100
    assert [bucket.take() for _ in range(3)] == [0, 0, 0.5]


def test_a_key_has_its_rate():
    with serving(ScriptedEngine(), rate=5) as running:
        responses = [running.http.get("/v1/schemas") for _ in range(12)]
        refused = [r for r in responses if r.status_code == 429]
        assert 5 <= len(responses) - len(refused) < 12
        problem(refused[0], 429, "rate")
        assert refused[0].headers["retry-after"] == "1"
        assert running.http.get("/readyz").status_code == 200


def raw(running, head, *parts, pause=0.0):
    """What a server answers to these bytes, and how many of them it took."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        sent = 0
        try:
            for part in (head.encode(), *parts):
                connection.sendall(part)
                sent += len(part)
                time.sleep(pause)
        except OSError:
            pass
        answer = b""
        try:
            while more := connection.recv(65_536):
                answer += more
        except OSError:
            pass
        return answer.decode(), sent


def test_a_body_of_a_hundred_megabytes_is_refused_early(live):
    answer, sent = raw(live, f"{POST}Content-Length: {100 << 20}\r\n\r\n", *(b" " * (1 << 20) for _ in range(100)))
    assert sent < 30 << 20 and (not answer or " 413 " in answer.split("\r\n")[0])
    answer, _ = raw(live, f"{POST}Content-Length: {100 << 20}\r\n\r\n")
    assert " 413 " in answer.split("\r\n")[0] and "send fewer offers at once" in answer
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    _, sent = raw(live, f"{POST}Transfer-Encoding: chunked\r\n\r\n", *(chunk for _ in range(100)))
    assert sent < 40 << 20
    labels = {"method": "POST", "route": "/v1/extract", "status": "413"}
    live.until(lambda: live.metric("shelfwise_requests_total", **labels) == 3)


def test_a_slow_body_is_not_waited_for():
    with serving(ScriptedEngine(), reading=0.3) as running:
        begun = time.monotonic()
        answer, _ = raw(running, f"{POST}Content-Length: 100\r\n\r\n", *[b" "] * 5, pause=0.1)
        assert " 408 " in answer.split("\r\n")[0] and "within 0.3 s" in answer and time.monotonic() - begun < 3
        assert running.extract(OFFER).status_code == 200
