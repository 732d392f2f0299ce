"""What the tests of review share: a service with keys, and people who review."""

import json
from contextlib import closing, contextmanager

from serving import serving
from test_feedback import record

from extractor.client import Client
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine
from extractor.feedback import Store
from extractor.keys import Keys

TITLE = "Diesel boot, red and wide"


class Desk:
    """A service with keys, and a client for each reviewer by name."""

    def __init__(self, running, keys):
        self.running, self.keys, self._secrets, self._clients = running, keys, {}, {}

    def secret(self, name, role="review"):
        if name not in self._secrets:
            self._secrets[name] = self.keys.create(name, role, None, "test")[1]
        return self._secrets[name]

    def client(self, name):
        if name not in self._clients:
            self._clients[name] = Client(self.running.url, self.secret(name))
        return self._clients[name]

    def ask(self, method, path, body=None, name="ann", role="review"):
        headers = {"Authorization": f"Bearer {self.secret(name, role)}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)  # in ASCII: half a character can be sent
        return self.running.http.request(method, path, content=content, headers=headers)

    def close(self):
        for client in self._clients.values():
            client.close()


@contextmanager
def desk_at(place, **limits):
    with closing(Database(place)) as database:
        keys = Keys(database)
        with (
            serving(ScriptedEngine(), keys, store=Store(database), **limits) as running,
            closing(Desk(running, keys)) as desk,
        ):
            yield desk


def waiting(n, title=TITLE, **values):
    return [record(f"o{i}", title, **values or {"Brand": ("Diesel", 0.1 + 0.5 * i / n)}) for i in range(n)]


def put(desk, records):
    rows = [json.loads(r.model_dump_json(by_alias=True)) for r in records]
    return desk.ask("POST", "/v1/feedback/records", {"records": rows})
