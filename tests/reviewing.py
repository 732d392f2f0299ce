"""What the tests of review share: a service with keys, people who review, and what they do on the page."""

import json
from contextlib import closing, contextmanager

import pytest
from serving import SCHEMAS, serving
from test_feedback import record

from extractor import Attribute, AttributeSchema
from extractor.client import Client
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine
from extractor.feedback import Store
from extractor.keys import Keys

TITLE = "Diesel boot, red and wide"
BAGS = AttributeSchema(
    category="Bags",
    attributes=(
        Attribute(name="Brand", description="The maker."),
        Attribute(name="Gender", type="enum", values=("Men", "Women", "Unisex", "Kids")),
        Attribute(name="Color", multiple=True),
        Attribute(name="Audience", type="enum", values=("Women", "Unisex"), multiple=True),
    ),
)


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


@contextmanager
def bags():
    """A service that serves bags, too, and asks for no keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.SCHEMAS", [*SCHEMAS, BAGS])
        with serving(ScriptedEngine()) as opened:
            yield opened


def value(text, title, description, confidence, status="verbatim", of=None):
    """`of` is what it was made of, where it is not the text itself."""
    found = (
        (field, (whole or "").find(of or text)) for field, whole in (("title", title), ("description", description))
    )
    field, begin = next(((field, begin) for field, begin in found if begin >= 0), (None, 0))
    place = {"field": field, "begin": begin, "end": begin + len(of or text)} if field else None
    return {"value": text, "status": status, "confidence": confidence, "evidence": place}


def keep(running, *rows, category="Bags"):
    """Into the store: id, title, description, and of each attribute the values with their confidences."""
    records = [
        {
            "offer_id": identity,
            "category": category,
            "title": title,
            "description": description,
            "attributes": {
                name: [value(v, title, description, *c) for v, *c in found] for name, found in attributes.items()
            },
            "provenance": {
                "model": "base@5",
                "engine": "scripted",
                "template": "extract@2",
                "template_sha256": "0",
                "schema": BAGS.reference,
                "created": "2026-11-26T12:00:00+00:00",
            },
            "usage": {"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 1},
        }
        for identity, title, description, attributes in rows
    ]
    response = running.http.post("/v1/feedback/records", json={"records": records})
    assert response.status_code == 200, response.text


def decided(running, identity):
    record = running.http.get(f"/v1/feedback/records/{identity}").json()
    return {name: [v["value"] for v in found] for name, found in record["attributes"].items()}


def letters(page, field, text):
    """Where a text lies on the page: left, middle, right."""
    return page.evaluate(
        """([field, text]) => {
            const place = document.getElementById(field), walk = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
            for (let node; (node = walk.nextNode()); ) {
                const at = node.data.indexOf(text);
                if (at < 0) continue;
                const range = document.createRange();
                range.setStart(node, at);
                range.setEnd(node, at + text.length);
                const r = range.getBoundingClientRect();
                return [r.left, r.top + r.height / 2, r.right];
            }
        }""",
        [field, text],
    )


def select(page, field, text):
    """With the mouse, from the first letter to the last."""
    left, middle, right = letters(page, field, text)
    page.mouse.move(left + 1, middle)
    page.mouse.down()
    page.mouse.move(right - 1, middle, steps=4)
    page.mouse.up()


def question(page, offer, attribute):
    from playwright.sync_api import expect

    expect(page.locator("#offer")).to_have_text(offer)
    expect(page.locator("#name")).to_have_text(attribute)
