"""What the tests of the service share: a real server on a loopback port, around a scripted engine."""

import json
import socket
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import httpx
from conftest import HOSTILE_SCHEMA

from extractor import Attribute, AttributeSchema
from extractor.adapters import Registry
from extractor.config import load_settings, make_extractor
from extractor.database import Database
from extractor.definitions import Definitions
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.feedback import Store
from extractor.service.serve import Server
from extractor.service.served import Limits, Service, prompter, trained_schemas

SHOES = AttributeSchema.from_names(["Brand", "Color"], "Shoes")
TEA = AttributeSchema(category="Tea/Green", attributes=(Attribute(name="Brand"), Attribute(name="Weight")))
SCHEMAS = [SHOES, TEA, HOSTILE_SCHEMA]
OFFER = {"id": "1", "category": "Shoes", "title": "Velmora Loafer"}
GREEN = {"id": "2", "category": "Tea/Green", "title": "Lung"}
ANSWERED = {"Brand": ["Velmora"], "Color": []}
POST = "POST /v1/extract HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Running:
    def __init__(self, service, server, port):
        self.service, self.server, self.url = service, server, f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=20, trust_env=False)
        self.port = port

    def extract(self, *offers, **more):
        headers = more.pop("headers", {})
        return self.http.post("/v1/extract", json={"offers": list(offers)} | more, headers=headers)

    def metric(self, name, **labels):
        return self.service.metrics.registry.get_sample_value(name, labels)

    def until(self, condition):
        for _ in range(500):
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError("it never came true")


@contextmanager
def serving(
    engine,
    keys=None,
    ready=True,
    store=None,
    registry=None,
    mask_pii=False,
    folder=None,
    program=None,
    template="extract",
    **limits,
):
    """A server around what makes engines, or around one. `program` runs the commands that train; `template` is of a file or
    of the store."""
    with ExitStack() as stack:
        folder = folder or Path(stack.enter_context(TemporaryDirectory()))
        if store is None:
            database = keys.database if keys else stack.enter_context(closing(Database(folder / "store.sqlite")))
            store = Store(database)
        yield from _serving(engine, keys, ready, store, folder, registry, mask_pii, program, template, limits)


def _serving(engine, keys, ready, store, folder, registry, mask_pii, program, template, limits):
    adapters, own = registry.root if registry else None, Definitions(store.database).template(template)
    given = {"mask_pii": mask_pii, "adapters": adapters, "template": template}
    settings = load_settings(engine="scripted", calibration="none", **given)

    @contextmanager
    def opened():
        promoted = Registry(adapters) if adapters else None
        trained = trained_schemas(SCHEMAS, Definitions(store.database), promoted)
        yield make_extractor(engine() if callable(engine) else engine, settings, trained, template=own)

    prompting, asking = partial(prompter, settings, SCHEMAS, [], own=own), (settings, [], own)
    service = Service(opened, SCHEMAS, prompting, store, folder, keys, Limits(**limits), asking, registry)
    service.training.program = program or service.training.program
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(service)
    thread = Thread(target=server.run, args=([listener],))
    thread.start()
    running = Running(service, server, listener.getsockname()[1])
    try:
        running.until(lambda: service.batcher.started.done() if ready else server.started)
        yield running
    finally:
        server.should_exit = True
        thread.join(20)
        running.http.close()
        assert not thread.is_alive()


def problem(response, status, kind=None):
    assert response.status_code == status, response.text
    document = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert document["status"] == status and document["title"] and len(document["detail"]) > 10
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["type"] == (f"urn:shelfwise:problem:{kind}" if kind else "about:blank")
    return document


def gate(title="slow"):
    """An engine that holds up calls with this title until the event is set."""
    opened = Event()

    def script(request):
        if title in request.messages[-1]["content"]:
            opened.wait(15)
        return first_words(request)

    return ScriptedEngine(script), opened


def values(record):
    return {name: [v["value"] for v in found] for name, found in record["attributes"].items()}


def table(n, first=0, category="Shoes"):
    """A file of offers."""
    rows = (f"{i},Brand{i} Loafer,{category}\n" for i in range(first, first + n))
    return ("sku,Product name,Category\n" + "".join(rows)).encode()


def sent(running, content, name="offers.csv", kind="application/octet-stream", headers=None):
    headers = {"Content-Type": kind} | (headers or {})
    return running.http.post("/v1/uploads", params={"name": name}, content=content, headers=headers)


def begun(running, content, name="offers.csv", headers=None, **asked):
    """A job over a file."""
    upload = sent(running, content, name, headers=headers)
    assert upload.status_code == 201, upload.text
    response = running.http.post("/v1/jobs", json={"upload": upload.json()["id"]} | asked, headers=headers)
    assert response.status_code == 202, response.text
    return response.json()


def ended(running, job, state="finished", headers=None):
    look = lambda: running.http.get(f"/v1/jobs/{job['id']}", headers=headers).json()  # noqa: E731
    running.until(lambda: look()["state"] not in ("waiting", "running"))
    found = look()
    assert found["state"] == state, found
    return found


def records(running, job, headers=None, **asked):
    response = running.http.get(f"/v1/jobs/{job['id']}/results", params=asked, headers=headers)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]
