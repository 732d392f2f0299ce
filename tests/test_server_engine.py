"""The server engine against a small HTTP server that fails in the ways that real ones do."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from extractor import AttributeSchema, Extraction, Extractor, ProductOffer, create_engine
from extractor.adapters import Adapter
from extractor.errors import AdapterError, EngineError, EngineUnavailable, ModelNotFoundError, public

ANSWER = '{"Brand": "Velmora", "Color": null}'
SCHEMA = AttributeSchema.from_names(["Brand", "Color"])
Reply = tuple[int, dict[str, object]]


def completion(text: str = ANSWER, reason: str = "stop") -> Reply:
    tokens = [{"token": text[i : i + 4], "logprob": -0.1} for i in range(0, len(text), 4)]
    tokens.append({"token": "<|im_end|>", "logprob": -0.1})
    choice = {"message": {"content": text}, "finish_reason": reason, "logprobs": {"content": tokens}}
    usage = {"prompt_tokens": 50, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 32}}
    return 200, {"choices": [choice], "usage": usage}


class Server(ThreadingHTTPServer):
    script: Callable[[dict[str, object]], Reply | None]
    requests: list[dict[str, object]]
    busy = most_busy = 0


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "base"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.busy += 1
        self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            reply = self.server.script(body)
        finally:
            self.server.busy -= 1
        if reply is None:
            self.close_connection = True
            self.connection.close()
        else:
            self._send(*reply)

    def _send(self, status: int, data: dict[str, object]) -> None:
        payload = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        if status == 429:
            self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    running.requests = []
    running.script = lambda body: completion()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def engine_for(server: Server, **options: object):
    return create_engine("server", base_url=f"http://127.0.0.1:{server.server_port}/v1", backoff=0.01, **options)


def extract(server: Server, n: int = 1, **options: object):
    engine = engine_for(server, **options)
    try:
        offers = [ProductOffer(id=str(i), title=f"Velmora {i}") for i in range(n)]
        return Extractor(engine, SCHEMA).extract(offers), engine
    finally:
        engine.close()


def test_a_record_with_its_confidence_and_tokens(server):
    (record,), engine = extract(server)
    assert isinstance(record, Extraction)
    assert record.attributes["Brand"][0].confidence == pytest.approx(0.7408, abs=1e-3)  # three tokens touch it
    assert record.usage.model_dump() == {"prompt_tokens": 50, "cached_tokens": 32, "output_tokens": 12}
    assert engine.retried == 0
    body = server.requests[0]
    assert body["structured_outputs"]["grammar"].startswith("%llguidance")
    assert body["temperature"] == 0 and body["logprobs"] is True and body["model"] == "base"


@pytest.mark.parametrize("fault", [(429, {}), (500, {}), (503, {"error": {"message": "busy"}}), None])
def test_passing_faults_are_retried_and_counted(server, fault):
    faults = [fault, fault]
    server.script = lambda body: faults.pop() if faults else completion()
    (record,), engine = extract(server)
    assert isinstance(record, Extraction)
    assert engine.retried == 2 and len(server.requests) == 3


def test_a_fault_that_stays_is_an_error_after_all_retries(server):
    server.script = lambda body: (503, {"error": {"message": "overloaded"}})
    with pytest.raises(EngineUnavailable, match=r"answered 503 \(tried 3 times\): overloaded") as caught:
        extract(server, retries=2)
    assert "overloaded" not in public(caught.value)  # it may say what it was asked
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "reason", "message"),
    [
        ((400, {"error": {"message": "bad grammar"}}), "engine_error", "structured-outputs-config.backend guidance"),
        (
            (
                400,
                {"message": "This model's maximum context length is 4096 tokens. However, your prompt contains 5000"},
            ),
            "context_overflow",
            "4096",
        ),
        (completion(ANSWER[:9], "length"), "output_truncated", "limit"),
        (completion("nonsense"), "invalid_output", "belongs"),
        (completion("", "abort"), "engine_error", "abort"),
    ],
)
def test_other_refusals_concern_one_offer_and_are_not_retried(server, reply, reason, message):
    server.script = lambda body: reply if "Velmora 1" in body["messages"][-1]["content"] else completion()
    records, engine = extract(server, n=3)
    assert [isinstance(r, Extraction) for r in records] == [True, False, True]
    assert records[1].failure.reason == reason and message in records[1].failure.message
    assert engine.retried == 0


def test_a_refused_key_or_model_is_an_error_at_once(server):
    server.script = lambda body: (401, {"error": {"message": "no"}})
    with pytest.raises(EngineError, match="refuses the key"):
        extract(server)
    with pytest.raises(ModelNotFoundError, match="serves base, not 'other'"):
        engine_for(server, model="other")
    assert len(server.requests) == 1


def test_concurrency_is_bounded(server):
    gate = threading.Semaphore(0)

    def slow(body: dict[str, object]) -> Reply:
        gate.acquire(timeout=0.05)
        return completion()

    server.script = slow
    records, _ = extract(server, n=24, concurrency=4)
    assert len(records) == 24 and 1 < server.most_busy <= 4


def test_an_adapter_is_loaded_by_its_folder_and_named_in_requests(server, tmp_path):
    adapter = Adapter("shoes@1", tmp_path, None)
    engine = engine_for(server, adapters=[adapter])
    records = Extractor(engine, SCHEMA, adapter="shoes@1").extract([ProductOffer(id="1", title="Velmora")])
    assert server.requests[0] == {"lora_name": "shoes@1", "lora_path": str(tmp_path)}
    engine.close()
    assert server.requests[1]["model"] == records[0].provenance.adapter == "shoes@1"
    server.script = lambda body: (404, {"message": "Not Found"})
    with pytest.raises(
        AdapterError, match=r"does not load adapter shoes@1 \(404: Not Found\); start vLLM with --enable-lora"
    ):
        engine_for(server, adapters=[adapter])
