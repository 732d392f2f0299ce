"""The client of a service that is slow, full, gone for a while, or at no address."""

from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from serving import serving, table

from extractor import ProductOffer
from extractor.client import Client
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import EngineUnavailable, InputError
from extractor.records import LabelledOffer


@contextmanager
def answering(*answers):
    """A server that answers in this way, one after the other: (status, body), None for a connection that breaks; its address, and
    the paths that were asked for."""
    left, asked = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.partition("?")[0])
            if (answer := left.pop(0)) is None:
                self.connection.close()
                return
            self.send_response(answer[0])
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LABELLED = LabelledOffer(id="1", title="Velmora boot", category="Shoes", attributes={"Brand": ["Velmora"]})


@pytest.mark.parametrize("trouble", [None, (429, b""), (503, b"")])
@pytest.mark.parametrize("what", ["results", "labelled", "job list"])
def test_what_is_away_for_a_while_is_waited_for(tmp_path, what, trouble):
    line = LABELLED.model_dump_json().encode() + b"\n"
    with answering(trouble, (200, b"[]" if what == "job list" else line)) as (url, asked), Client(url) as client:
        if what == "results":
            client.results("j", tmp_path / "r.jsonl")
            assert (tmp_path / "r.jsonl").read_bytes() == line
        elif what == "labelled":
            assert list(client.labelled()) == [LABELLED]
        else:
            assert client.templates() == []
        assert len(asked) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_patience_has_an_end(tmp_path, status):
    with answering((status, b"")) as (url, asked), Client(url, patience=-1) as client:
        with pytest.raises(EngineUnavailable, match=f"status {status}.*in vain"):
            client.results("j", tmp_path / "r.jsonl")
        assert len(asked) == 1 and not list(tmp_path.iterdir())


def test_a_file_that_is_one_too_many_is_sent_once(tmp_path):
    (tmp_path / "a.csv").write_bytes(table(2))
    with serving(ScriptedEngine(), uploads=0) as running, Client(running.url, patience=30) as client:
        with pytest.raises(EngineUnavailable, match="429 Too many files wait"):
            client.submit(tmp_path / "a.csv")
        labels = {"method": "POST", "route": "/v1/uploads"}
        running.until(lambda: running.metric("shelfwise_requests_total", status="429", **labels) == 1)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "shelfwise.example", ""])
def test_an_address_says_how_it_is_reached(url):
    with pytest.raises(InputError, match="begins with http://"):
        Client(url)


def test_long_offers_go_in_parts(monkeypatch):
    monkeypatch.setattr("extractor.client.LARGEST", 2_000)
    offers = [ProductOffer(id=str(i), category="Shoes", title=f"Brand{i} été", description="é" * 300) for i in range(9)]
    offers.append(ProductOffer(id="long", category="Shoes", title="Brand9 boot", description="x" * 3_000))
    with serving(ScriptedEngine(), body=4_000) as running, Client(running.url) as client:
        records = client.extract(offers)
        assert [r.offer_id for r in records] == [o.id for o in offers]
        assert [r.attributes["Brand"][0].value for r in records] == [f"Brand{i}" for i in range(10)]
        labels = {"method": "POST", "route": "/v1/extract"}
        running.until(lambda: running.metric("shelfwise_requests_total", status="200", **labels) == 10)
        assert client.extract([]) == []
