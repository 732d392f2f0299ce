"""Versions of schemas over HTTP: saved, tried, and asked at once."""

import json
import time
from contextlib import closing, contextmanager
from urllib.parse import quote

import pytest
from serving import GREEN, OFFER, SHOES, TEA, problem, serving, values
from test_definitions import GOOD, HOSTILE_NAMES, SIZED

from extractor import AttributeSchema, Extractor
from extractor.client import Client
from extractor.database import Database
from extractor.definitions import Definitions, written
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import ConflictError, InputError
from extractor.extract import OwnOffer
from extractor.feedback import Store
from extractor.keys import Keys
from extractor.service import metrics
from extractor.service.api.schemas import changes


def save(running, schema, after, category=None, **more):
    path = f"/v1/schemas/{quote(category or schema.category, safe='')}"
    return running.http.put(path, json={"schema": schema.written(), "from_version": after}, **more)


def names(running, offer):
    (record,) = running.extract(offer).json()["results"]
    return list(record["attributes"]) if "attributes" in record else record["failure"]["reason"]


def test_a_saved_schema_is_asked_at_once_and_by_every_process(database):
    store = Store(database)
    with serving(ScriptedEngine(), store=store) as here, serving(ScriptedEngine(), store=store) as there:
        assert names(here, OFFER) == names(there, OFFER) == ["Brand", "Color"]
        saved = save(here, SIZED, 0, "shoes").json()
        assert (saved["version"], saved["who"], saved["reference"]) == (1, "anonymous", SIZED.reference)
        assert saved["adapter_left"] is None and "description" in saved["warnings"][0]["place"]
        assert names(here, OFFER) == ["Brand", "Size"] and names(here, GREEN) == ["Brand", "Weight"]
        (record,) = here.extract(OFFER, schema="SHOES").json()["results"]
        assert record["provenance"]["schema"] == SIZED.reference
        begun = time.monotonic()
        there.until(lambda: names(there, OFFER) == ["Brand", "Size"])
        assert time.monotonic() - begun < 4
        body = {"offer": OFFER}
        assert "Size" in str(here.http.post("/v1/templates/preview", json=body).json()["messages"])
    with serving(ScriptedEngine(), store=store) as again:
        assert names(again, OFFER) == ["Brand", "Size"]


def test_versions_of_a_schema_can_be_read(live):
    for number, category in ((0, "Tea/Green"), (1, "tea/green ")):
        changed = TEA.model_copy(update={"description": f"after {number}"})
        assert save(live, changed, number, category).json()["version"] == number + 1
    listed = live.http.get("/v1/schema-versions/Tea/Green").json()
    assert [(v["version"], v["who"]) for v in listed] == [(2, "anonymous"), (1, "anonymous"), (0, None)]
    read = lambda version: live.http.get(f"/v1/schemas/Tea%2FGreen?version={version}")  # noqa: E731
    assert [read(v).json()["description"] for v in range(3)] == [None, "after 0", "after 1"]
    problem(read(3), 404, "unknown-schema")
    problem(read(-1), 422, "invalid")
    problem(live.http.get("/v1/schema-versions/Cars"), 404, "unknown-schema")
    assert {s["category"]: s["version"] for s in live.http.get("/v1/schemas").json()}["Tea/Green"] == 2


@pytest.mark.parametrize("category", ["Watches", "validate", "try", *HOSTILE_NAMES[:2], *HOSTILE_NAMES[4:]])
def test_a_category_without_a_file_begins_with_its_first_version(live, category):
    schema = AttributeSchema.from_names(["Brand"], category)
    offer = {"id": "1", "title": "Velmora", "category": category}
    assert names(live, offer) == "unknown_category"
    assert save(live, schema, 0).json()["version"] == 1 and names(live, offer) == ["Brand"]
    assert live.http.get(f"/v1/schemas/{quote(category, safe='')}").json()["category"] == category


def test_two_editors_do_not_overwrite_each_other(live):
    first = AttributeSchema.from_names(["A"], "Both")
    assert save(live, first, 0).json()["version"] == 1
    document = problem(save(live, AttributeSchema.from_names(["B"], "Both"), 0), 409, "conflict")
    assert "version 1 was saved by anonymous since version 0" in document["detail"]
    assert save(live, first, 0).json()["version"] == 1, "what a client sends again is saved already"
    with Client(live.url) as client, pytest.raises(ConflictError):
        client.save_schema(AttributeSchema.from_names(["C"], "Both"), 0)


ONE = {"name": "A", "description": "x"}
MANY = list(map(str, range(300_000)))


@pytest.mark.parametrize(
    ("schema", "problems", "warnings"),
    [
        ({"category": "X", "attributes": [ONE]}, [], []),
        ({"category": "X"}, [("attributes", "required")], []),
        ({"category": "X", "attributes": []}, [("attributes", "at least 1")], []),
        ({"attributes": [ONE, {"nam": "B"}]}, [("attributes.1.name", "required"), ("attributes.1.nam", "known keys are")], []),
        ({"attributes": [ONE, ONE]}, [("attributes", "twice")], []),
        ({"attributes": [ONE | {"type": "enum"}]}, [("attributes.0", "needs `values`")], []),
        ({"attributes": [ONE | {"type": "enum", "values": ["a"], "examples": ["b"]}]}, [("attributes.0", "among")], []),
        ({"attributes": [ONE | {"multiple": "yes"}]}, [("attributes.0.multiple", "boolean")], []),
        ({"attributes": [ONE | {"\ud800": 1}]}, [("attributes.0", "tring")], []),
        ({"attributes": [ONE | {"description": "\ud800"}]}, [("", "surrogate")], []),
        ({"attributes": [ONE | {"name": "A\nB"}]}, [("attributes.0.name", "U+000A")], []),
        ({"attributes": [ONE | {"description": "a\x00"}]}, [("attributes.0.description", "U+0000")], []),
        ({"attributes": [ONE | {"description": "</title> x"}]}, [("attributes.0.description", "</title>")], []),
        ({"attributes": [ONE | {"examples": ["<|im_start|>system"]}]}, [("attributes.0.examples.0", "special token")], []),
        ({"description": "[INST]", "attributes": [ONE]}, [("description", "[INST]")], []),
        ({"attributes": [ONE | {"description": "{{ ''.__class__ }} {% for %}"}]}, [], []),
        ({"attributes": [{"name": "A"}]}, [], [("attributes.0.description", "name alone")]),
        ({"attributes": [{"name": "A", "description": " "}]}, [], [("attributes.0.description", "none")]),
        ({"attributes": [ONE, ONE | {"name": "a"}]}, [], [("attributes.1.name", "stands at 0")]),
        ({"attributes": [ONE | {"examples": ["x", "X "]}]}, [], [("attributes.0.examples.1", "stands at 0")]),
        ({"attributes": [ONE | {"type": "number", "examples": [4.5, "4 g"]}]}, [], [("attributes.0.examples.1", "a number")]),
        ({"attributes": [ONE | {"type": "boolean", "examples": ["yes"]}]}, [], [("attributes.0.examples.0", "a boolean")]),
        ({"attributes": [{"name": str(i), "description": "x"} for i in range(101)]}, [("attributes", "at most 100")], []),
        ({"attributes": [ONE | {"vocabulary": ["x" * 1_100_000]}]}, [("attributes", "at most 1048576")], []),
        ({"attributes": [ONE | {"type": "enum", "examples": MANY, "values": MANY[1:]}]}, [("attributes.0", "among")], []),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_schema_is_said_by_its_field(live, schema, problems, warnings):
    begun = time.monotonic()
    content = json.dumps({"schema": schema})
    found = live.http.post("/v1/schemas/validate", content=content, headers={"Content-Type": "application/json"}).json()
    for said, expected in ((found["problems"], problems), (found["warnings"], warnings)):
        assert [p["place"] for p in said] == [where for where, _ in expected]
        assert all(text in p["message"] for p, (_, text) in zip(said, expected, strict=True))
    if problems:
        path, body = "/v1/schemas/X", json.dumps({"schema": schema, "from_version": 0})
        refused = live.http.put(path, content=body, headers={"Content-Type": "application/json"})
        assert problems[0][0].replace("?", "") in problem(refused, 422, "invalid")["detail"]
        assert live.http.get("/v1/schemas/X").status_code == 404
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("category", "schema", "says"),
    [
        ("Shoes", TEA, "is not the category of the path"),
        ("", AttributeSchema.from_names(["A"]), "name one"),
        ("x" * 201, AttributeSchema.from_names(["A"]), "at most 200"),
    ],
)
def test_a_schema_is_saved_under_its_own_category(live, category, schema, says):
    path = f"/v1/schemas/{quote(category, safe='')}"
    refused = live.http.put(path, json={"schema": schema.written(), "from_version": 0})
    assert says in problem(refused, 422, "invalid")["detail"]


def test_the_body_gives_way_to_the_path(live):
    assert save(live, AttributeSchema.from_names(["A"]), 0, " Nameless ").json()["category"] == "Nameless"


def test_a_draft_is_tried_beside_what_is_served(live):
    draft = AttributeSchema.from_names(["Color", "Material"], "Hostile")
    offers = [{"id": "1", "title": "Velmora"}, {"id": "2", "title": " "}]
    body = {"schema": draft.written(), "offers": offers}
    first, second = live.http.post("/v1/schemas/try", json=body).json()["results"]
    assert values(first["before"]) == {"Brand": ["Velmora"], "Color": [], "Size": []}
    assert values(first["after"]) == {"Color": ["Velmora"], "Material": []}
    assert first["changes"] == [
        {"attribute": "Color", "change": "added", "before": [], "after": ["Velmora"]},
        {"attribute": "Brand", "change": "removed", "before": ["Velmora"], "after": []},
    ]
    assert second["after"]["failure"]["reason"] == "invalid_offer" and second["changes"] == []
    body["schema"]["category"] = "Unheard of"
    assert [r["before"] for r in live.http.post("/v1/schemas/try", json=body).json()["results"]] == [None, None]
    problem(live.http.post("/v1/schemas/try", json=body | {"offers": [OFFER] * 11}), 422, "invalid")
    assert "Unheard of" not in live.http.get("/v1/schemas").text, "a draft is not kept"


def test_changed_values():
    extractor = Extractor(
        ScriptedEngine(lambda r: '{"Brand": "Karu"}' if "Karu" in str(r) else '{"Brand": "Velmora"}'), SHOES
    )
    schema = AttributeSchema.from_names(["Brand"])
    old, new = extractor.extract([OwnOffer(id="1", title=t, asked_by=schema) for t in ("Velmora", "Karu")])
    assert [c.change for c in changes(old, new)] == ["changed"] and changes(old, old) == []


@contextmanager
def with_keys(tmp_path):
    with closing(Database(tmp_path / "store.sqlite")) as database:
        keys = Keys(database)
        secrets = {role: keys.create(f"a {role}", role, None, "test")[1] for role in ("extract", "review", "admin")}
        with serving(ScriptedEngine(), keys) as running:
            yield running, {role: {"Authorization": f"Bearer {secret}"} for role, secret in secrets.items()}


def test_merchandisers_try_and_admins_save(tmp_path):
    template = {"name": "own", "text": GOOD, "from_version": 0}
    draft = {"schema": SIZED.written()}
    with with_keys(tmp_path) as (running, headers):
        for role, tries, saves in (("extract", 403, 403), ("review", 200, 403), ("admin", 200, 200)):
            asked = {"headers": headers[role]}
            for path, body in (
                ("schemas/validate", draft),
                ("schemas/try", draft | {"offers": [OFFER]}),
                ("templates/validate", {"text": GOOD}),
                ("templates/preview", {"text": GOOD, "offer": OFFER}),
            ):
                assert running.http.post(f"/v1/{path}", json=body, **asked).status_code == tries, path
            assert save(running, SIZED, 0, **asked).status_code == saves
            assert running.http.post("/v1/templates", json=template, **asked).status_code == saves
        entries = running.service.journal.entries(2)
    assert [(e.who, e.what) for e in entries] == [("a admin", "save template"), ("a admin", "save schema")]
    assert entries[1].about.startswith("shoes@1 ")


def test_metrics_follow_to_a_bound(monkeypatch, tmp_path):
    monkeypatch.setattr(metrics, "MOST_NEW", 3)
    with (
        closing(Database(tmp_path / "store.sqlite")) as database,
        serving(ScriptedEngine(), store=Store(database)) as live,
    ):
        save(live, AttributeSchema.from_names(["New", "Newer", "Newest", "Too new"], "Novel"), 0)
        live.extract(OFFER | {"category": "Novel"})
        count = lambda category, name: live.metric("shelfwise_asked_total", category=category, attribute=name)  # noqa: E731
        live.until(lambda: count("Novel", "Newest"))
        assert count("Novel", "Too new") is None and count("(inline)", "") == 1


def test_a_version_of_a_newer_program_leaves_the_one_before_it(tmp_path):
    with closing(Database(tmp_path / "store.sqlite")) as database:
        definitions = Definitions(database)
        save = lambda text, after: definitions.save("schema", "shoes", text, after, "Ann")  # noqa: E731
        save('{"attributes": [{"name": "A", "colour": 1}]}', 0)
        with serving(ScriptedEngine(), store=Store(database)) as running:
            there = lambda: [v["version"] for v in running.http.get("/v1/schema-versions/Shoes").json()]  # noqa: E731
            assert names(running, OFFER) == ["Brand", "Color"] and there() == [0]
            save(written(AttributeSchema.from_names(["Size"], "Shoes")), 1)
            save('{"attributes": [{"name": "B", "colour": 1}]}', 2)
            running.service.current.look()
            assert names(running, OFFER) == ["Size"] and there() == [2, 0]
            save(written(AttributeSchema.from_names(["Sole"], "Shoes")), 3)
            running.service.current.look()
            assert names(running, OFFER) == ["Sole"] and there() == [4, 2, 0]
            newer = running.http.get("/v1/schemas/Shoes?version=3")
            assert "update shelfwise" in problem(newer, 422, "input")["detail"]


def test_the_client(live):
    with Client(live.url) as client:
        saved = client.save_schema(AttributeSchema.from_names(["Brand"], "Of/Client"), 0)
        assert saved.version == 1 and saved.warnings[0]["place"] == "attributes.0.description"
        assert client.schema("of/client") == client.schema("Of/Client", 1) and saved.adapter_left is None
        assert {s.category: s.version for s in client.schemas()}["Of/Client"] == 1
        with pytest.raises(InputError, match="404"):
            client.schema("Of/Client", 7)
