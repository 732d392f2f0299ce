"""The bundled model in vLLM, in this process and behind its server.

Every one of the public validation offers and of 1,000 hostile titles gives a record that validates, or a failure.
"""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import HOSTILE, HOSTILE_SCHEMA, assert_grounded, run_cli

from extractor import DemonstrationPool, Extractor, Failure, ProductOffer, create_engine, load_schemas
from extractor.adapters import open_adapter
from extractor.engines.base import Engine
from extractor.engines.models import BASE_MODEL
from extractor.errors import AdapterError
from extractor.io import read_labelled
from extractor.prompts import PROMPTS

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def vllm() -> Iterator[Engine]:
    engine = create_engine("vllm")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def server(vllm) -> Iterator[str]:
    """A real OpenAI-compatible vLLM server on a free port, with the arithmetic of the engine in process."""
    dtype = str(vllm._llm.llm_engine.model_config.dtype).removeprefix("torch.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE_MODEL)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype]
    command += ["--enforce-eager", "--structured-outputs-config.backend", "guidance"]
    command += ["--structured-outputs-config.disable_any_whitespace", "true", "--enable-prompt-tokens-details"]
    command += ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "2"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(f"the vLLM server ended with status {process.returncode}")
            try:
                if httpx.get(f"{url}/health", timeout=1, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(1)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_vllm_answers_every_public_offer_in_its_words(vllm, shared_offers):
    offers, schemas = shared_offers
    records = Extractor(vllm, schemas).extract(offers)
    extractions = assert_grounded(offers, records)
    assert len(extractions) > 550
    # strict grounding: a text value is a span of the offer, always
    assert {v.status for r in extractions for values in r.attributes.values() for v in values} == {"verbatim"}
    assert all(0 <= v.confidence <= 1 for r in extractions for values in r.attributes.values() for v in values)


def test_vllm_answers_every_hostile_title(vllm):
    records = Extractor(vllm, HOSTILE_SCHEMA).extract(HOSTILE)
    extractions = assert_grounded(HOSTILE, records)
    assert len(extractions) > 700
    assert {v.status for r in extractions for values in r.attributes.values() for v in values} <= {"verbatim"}
    assert {r.failure.reason for r in records if isinstance(r, Failure)} <= {"context_overflow", "output_truncated"}


def test_what_a_grammar_leaves_no_choice_about_costs_no_step_and_changes_nothing(vllm, shared_offers, monkeypatch):
    offers, schemas = shared_offers
    extractor = Extractor(vllm, schemas)
    core = vllm._llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner

    forced, after = [], runner._forced

    def counted(request, token):
        forced.extend(following := after(request, token))
        return following

    def answers(grounding):
        extractor.grounding = grounding
        forced.clear()
        requests = [extractor._task(0, o, extractor.schema_for(o), None).request for o in offers[::6]]
        return vllm.generate(requests), len(forced)

    monkeypatch.setattr(runner, "_forced", counted)
    for grounding in ("strict", "off"):
        guided, spared = answers(grounding)
        with monkeypatch.context() as patch:
            patch.setattr(runner, "scheduler", None)
            plain, none = answers(grounding)
        assert spared > 0.3 * sum(g.output_tokens for g in guided) and none == 0
        same = [(g, p) for g, p in zip(guided, plain, strict=True) if g.text == p.text]
        assert len(same) >= 0.98 * len(plain)  # a near tie may fall the other way
        for g, p in same:
            assert (list(g.pieces), g.output_tokens, g.finish_reason) == (list(p.pieces), p.output_tokens, "stop")
            assert g.logprobs == pytest.approx(p.logprobs, abs=1e-3)


def test_a_grammar_that_is_none_spoils_its_request_alone(vllm, samples):
    from dataclasses import replace

    from outlines.types import CFG

    extractor = Extractor(vllm, load_schemas(PROMPTS / "schemas"))
    good = extractor._task(0, samples[0], extractor.schema_for(samples[0]), None).request
    bad = replace(good, constraint=CFG("start: nowhere"))
    first, none, second = vllm.generate([good, bad, good])
    assert first.text == second.text and first.text.endswith("}") and none.text == ""


def test_what_overflows_the_context_says_how_much_and_can_be_cut(vllm):
    sentence = "a soft shoe for every day. Made by hand, in black suede with care."
    words = random.Random(1).choices(sentence.split(" "), k=9_000)
    long = ProductOffer(id="long", title="Velmora Loafer", description=" ".join(words))
    failure = Extractor(vllm, HOSTILE_SCHEMA).extract([long])[0]
    assert failure.failure.reason == "context_overflow" and "the model allows 4096 together" in failure.failure.message
    record = Extractor(vllm, HOSTILE_SCHEMA, truncate=True).extract([long])[0]
    assert record.truncated and record.title == long.title and long.description.startswith(record.description)


def test_grounding_off_and_demonstrations_give_records_too(vllm, samples):
    pool = DemonstrationPool(read_labelled(PROMPTS / "demonstrations" / "shoes.jsonl"), k=3)
    schemas = load_schemas(PROMPTS / "schemas")
    shoes = [o for o in samples if o.category == "Shoes"]
    for grounding in ("off", "strict"):
        records = Extractor(vllm, schemas, demonstrations=pool, grounding=grounding).extract(shoes)
        extractions = assert_grounded(shoes, records)
        assert len(extractions) >= len(shoes) - 1
        assert all(r.usage.prompt_tokens > 150 for r in extractions)
    assert sum(r.usage.cached_tokens for r in extractions) > 0  # the same prompts, a second time


def test_an_adapter_of_another_model_is_refused(write):
    import json

    header = json.dumps(
        {"model.layers.0.self_attn.q_proj.lora_A.weight": {"dtype": "F32", "shape": [8, 4096], "data_offsets": [0, 0]}}
    ).encode()
    weights = write("adapter/adapter_model.safetensors", len(header).to_bytes(8, "little") + header)
    write("adapter/adapter_config.json", json.dumps({"r": 8, "base_model_name_or_path": "big/model"}))
    with pytest.raises(AdapterError, match=r"made for big/model \(width \[4096\]"):
        create_engine("vllm", adapters=[open_adapter(weights.parent)])
    weights.write_bytes(b"\xff" * 20)
    with pytest.raises(AdapterError, match="damaged"):
        create_engine("vllm", adapters=[open_adapter(weights.parent)])
    weights.unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        create_engine("vllm", adapters=[open_adapter(weights.parent)])


def test_a_server_gives_the_same_records_as_vllm(vllm, server, shared_offers):
    offers, schemas = shared_offers
    engine = create_engine("server", base_url=server)
    try:
        remote = Extractor(engine, [*schemas, HOSTILE_SCHEMA]).extract(offers + HOSTILE)
    finally:
        engine.close()
    assert_grounded(offers + HOSTILE, remote)
    here = Extractor(vllm, [*schemas, HOSTILE_SCHEMA]).extract(offers + HOSTILE)
    assert [type(r) for r in here] == [type(r) for r in remote]

    def values(record):
        return {k: [v.value for v in vs] for k, vs in record.attributes.items()}

    pairs = [(a, b) for a, b in zip(here, remote, strict=True) if not isinstance(a, Failure)]
    same = sum(values(a) == values(b) for a, b in pairs)
    # Sums depend on what else is in a batch: a near tie may fall the other way.
    assert same >= 0.98 * len(pairs), f"{same} of {len(pairs)} agree"


def test_a_server_loads_an_adapter_and_serves_it_beside_the_base(server, samples, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    configuration = peft.LoraConfig(r=8, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(BASE_MODEL), configuration).save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    engine = create_engine("server", base_url=server, adapters=[adapter])
    schemas = load_schemas(PROMPTS / "schemas")
    answers = [
        [
            r.to_dict()["attributes"]
            for r in assert_grounded(samples[:20], Extractor(engine, schemas, adapter=a).extract(samples[:20]))
        ]
        for a in (None, adapter.reference, None)
    ]
    engine.close()
    assert answers[0] == answers[2] != answers[1]


def test_the_command_line_reaches_a_server(server, write):
    line = '{"id": "1", "title": "Velmora Suede Loafer, Tan, EU 42", "category": "Shoes"}\n'
    done = run_cli(
        "extract", "-", "--attributes", "Brand,Color", "--engine", "server", "--base-url", server, stdin=line
    )
    assert done.returncode == 0 and '"engine":"server"' in done.stdout
