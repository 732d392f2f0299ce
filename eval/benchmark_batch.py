"""`python -m eval.benchmark batch`: a job against what people do by hand, on the same model, prompts and labelled offers."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from eval.baselines.spans import schema_for
from eval.datasets import load_dataset
from eval.metrics import Prediction, score, tabulate, tallies
from eval.predictions import from_answer, from_record
from extractor import AttributeSchema
from extractor.batch import work
from extractor.config import load_settings, open_extractor
from extractor.engines.base import GenerationRequest
from extractor.engines.models import resolve_model
from extractor.job import create
from extractor.manifest import Manifest
from extractor.processes import Engines
from extractor.records import LabelledOffer
from extractor.workshop import Opened


@contextmanager
def served(model: str) -> Iterator[httpx.Client]:
    """A client of vLLM's server with this model, on a free port, with the arithmetic of the engine in process."""
    from vllm.platforms import current_platform

    from extractor.engines.vllm_offline import cpu_dtype

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model(model)]
    command += ["--served-model-name", "model", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--dtype", cpu_dtype()] if current_platform.is_cpu() else []
    command += ["--structured-outputs-config.backend", "guidance"]
    command += ["--structured-outputs-config.disable_any_whitespace", "true"]
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as client,
    ):
        try:
            while process.poll() is None:
                try:
                    if client.get("/health").status_code == 200:
                        yield client
                        return
                except httpx.TransportError:
                    time.sleep(1)
            raise RuntimeError(f"the vLLM server ended with status {process.returncode}")
        finally:
            process.terminate()


def ask(client: httpx.Client, request: GenerationRequest) -> str:
    """As a script does it, with the schema in `response_format`."""
    schema = {"name": "record", "schema": _schema(request)}
    body = {
        "model": "model",
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": 0.0,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    answer = client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def _schema(request: GenerationRequest) -> Any:
    return json.loads(request.constraint.schema)


@contextmanager
def stock(model: str) -> Iterator[Any]:
    """vLLM in this process, set up as one who reads its documentation would for this machine and constraint."""
    from vllm import LLM
    from vllm.platforms import current_platform

    from extractor.engines.vllm_offline import cpu_dtype

    settings = {"enforce_eager": True, "dtype": cpu_dtype()} if current_platform.is_cpu() else {}
    constraint = {"backend": "guidance", "disable_any_whitespace": True}
    llm = LLM(resolve_model(model), structured_outputs_config=constraint, use_tqdm_on_load=False, **settings)
    yield llm
    llm.llm_engine.engine_core.shutdown()


def by_hand(llm: Any, requests: Sequence[GenerationRequest]) -> list[Prediction]:
    """The whole list in one call, with the JSON Schema of each record."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    parameters = [
        SamplingParams(
            temperature=0.0, max_tokens=r.max_tokens, structured_outputs=StructuredOutputsParams(json=_schema(r))
        )
        for r in requests
    ]
    outputs = llm.chat([r.messages for r in requests], parameters, use_tqdm=False)
    return [from_answer(o.outputs[0].text) for o in outputs]


def job(
    opened: Opened, schemas: Sequence[AttributeSchema], offers: Sequence[LabelledOffer], engines: int
) -> tuple[list[Prediction], float]:
    """And records/s, since the first chunk was there: by then engines have started. The first chunk of each does not count."""
    part = max(1, min(256, len(offers) // (4 * engines)))
    at: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "offers.jsonl"
        source.write_text("".join(o.model_dump_json(exclude={"attributes", "absent"}) + "\n" for o in offers))
        manifest = Manifest(
            sources=[str(source)],
            part=part,
            prints={f"schema {s.category}": s.reference for s in schemas},
        )
        with create(Path(folder) / "job", manifest) as made:
            work(made, opened, extract=Engines(engines), report=lambda *_: at.append(time.perf_counter()))
            by_id = {r.offer_id: from_record(r.to_dict()) for r in made.records()}
    predictions = [by_id.get(o.id, Prediction(failure="engine_error")) for o in offers]
    return predictions, (len(offers) - engines * part) / (at[-1] - at[0])


def batch(
    data: Annotated[Path, typer.Option(help="A folder of labelled offers.")],
    split: str = "train",
    model: str = "base",
    n: Annotated[int, typer.Option(min=100, help="Offers.")] = 1000,
    plain: Annotated[int, typer.Option(help="Of these for the plain loop.")] = 40,
    concurrent: Annotated[int, typer.Option(help="Of these for 16 requests at once.")] = 250,
    engines: Annotated[int | None, typer.Option(help="Of the job. (default: one a core)")] = None,
) -> None:
    """Records/s and F1 of a plain loop, of 16 requests at once, of `LLM.chat` on the whole list, and of a job."""
    import extractor.engines.vllm_offline  # noqa: F401  # says what vLLM logs, before it is imported
    from eval.benchmark import _requests

    dataset = load_dataset(data, split)
    # Category by category, as the extractor sorts them, so that requests go with offers.
    offers = sorted(dataset.offers[:n], key=lambda o: schema_for(o, dataset.schemas).fingerprint)
    requests = _requests(dataset.schemas, offers, grounding="off")
    rates: dict[str, float] = {}

    def show(name: str, made: Sequence[Prediction], rate: float) -> None:
        rates[name] = rate
        f1 = score(tallies(tabulate(offers[: len(made)], made, dataset.asked))["published"]).f1
        print(f"{name:32} {rate:7.1f} records/s   F1 {f1:.1f} of {len(made)} offers", flush=True)

    def timed(name: str, run: Callable[[], list[Prediction]]) -> None:
        begin = time.perf_counter()
        made = run()
        show(name, made, len(made) / (time.perf_counter() - begin))

    with served(model) as client:
        ask(client, requests[0])
        timed("one request at a time", lambda: [from_answer(ask(client, r)) for r in requests[:plain]])
        with ThreadPoolExecutor(16) as pool:
            some = requests[:concurrent]
            timed("16 requests at once", lambda: [from_answer(a) for a in pool.map(lambda r: ask(client, r), some)])
    with stock(model) as llm:
        by_hand(llm, requests[:1])
        llm.reset_prefix_cache()
        timed("LLM.chat on the whole list", lambda: by_hand(llm, requests))
    opened: Opened = partial(open_extractor, load_settings(engine="vllm", model=model), dataset.schemas)
    show("a job", *job(opened, dataset.schemas, offers, engines or len(os.sched_getaffinity(0))))
    print(f"the job is {rates['a job'] / rates['one request at a time']:.1f} times the plain loop,", end=" ")
    print(f"{rates['a job'] / rates['LLM.chat on the whole list']:.2f} times LLM.chat")
