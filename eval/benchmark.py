"""Speed, as ratios of things run side by side.

python -m eval.benchmark extract                     # vLLM called directly against Extractor
python -m eval.benchmark pipeline --offers 1000000   # the command line's own work, with the scripted engine
python -m eval.benchmark adapters                    # one adapter against fifty in a mixed load
python -m eval.benchmark batch --data sets/ae_110k   # a job against scripts, and LLM.chat by hand
python -m eval.benchmark ray                         # a job on 1 to 16 actors, scripted; --engine vllm --actors 1,2
python -m eval.benchmark service --clients 200       # the HTTP service under load; --engine vllm --alone
python -m eval.benchmark scores                      # a million cells with 1,000 bootstrap rounds
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from eval.benchmark_batch import batch
from eval.benchmark_ray import ray
from eval.benchmark_service import service
from extractor import AttributeSchema, Extractor, LabelledOffer, ProductOffer, load_schemas
from extractor.engines.base import Generation, GenerationRequest
from extractor.engines.scripted import ScriptedEngine
from extractor.io import OfferReader
from extractor.prompts import PROMPTS

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Benchmarks; each prints what it measured.")
app.command()(batch)
app.command()(ray)
app.command()(service)
SAMPLES = PROMPTS / "samples" / "catalogue.jsonl"


def _offers(path: Path, n: int) -> list[ProductOffer]:
    """`n` distinct offers: those of the file over and over, each round with another number at the end of the title."""
    read = [row for row in OfferReader(path) if isinstance(row, ProductOffer)]
    rounds = ((i, offer) for i, offer in enumerate(cycle(read)))
    return [
        offer.model_copy(update={"id": f"{offer.id}-{i}", "title": f"{offer.title} {i // len(read)}"})
        for i, offer in islice(rounds, n)
    ]


@app.command()
def extract(
    model: str = "base",
    data: Annotated[Path, typer.Option(help="Offers; the default is the sample catalogue.")] = SAMPLES,
    schemas: Annotated[Path, typer.Option(help="Schemas of these offers.")] = PROMPTS / "schemas",
    n: Annotated[int, typer.Option(help="Offers a round.")] = 288,
    rounds: int = 3,
) -> None:
    """Records/s and tokens/s of vLLM called directly (no constraint, JSON Schema, grounded grammar) and of Extractor."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from extractor.engines.vllm_offline import VllmEngine

    engine = VllmEngine(model)
    llm, output_type = engine._llm, engine._output_type
    loaded, offers = load_schemas(schemas), _offers(data, n)

    def directly(prepared: Sequence[GenerationRequest], constrained: bool) -> Callable[[], int]:
        messages = [r.messages for r in prepared]
        parameters = [
            SamplingParams(
                temperature=0.0,
                max_tokens=r.max_tokens,
                logprobs=0,
                flat_logprobs=True,
                structured_outputs=StructuredOutputsParams(**output_type(r.constraint)) if constrained else None,
            )
            for r in prepared
        ]

        def run() -> int:
            # vLLM writes into the parameters that it is given: a run needs its own.
            outputs = llm.chat(messages, [p.clone() for p in parameters], use_tqdm=False)
            return sum(len(o.outputs[0].token_ids) for o in outputs)

        return run

    def extractor() -> int:
        records = Extractor(engine, loaded).extract(offers)
        return sum(record.usage.output_tokens for record in records if hasattr(record, "usage"))

    free, strict = (_requests(loaded, offers, grounding=g) for g in ("off", "strict"))
    contenders: dict[str, Callable[[], int]] = {
        "vLLM, no constraint": directly(free, constrained=False),
        "vLLM, JSON Schema": directly(free, constrained=True),
        "vLLM, grounded grammar": directly(strict, constrained=True),
        "Extractor, strict": extractor,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    tokens: dict[str, int] = {}
    for round_ in range(rounds + 1):
        for name, run in contenders.items():
            llm.reset_prefix_cache()
            begin = time.perf_counter()
            tokens[name] = run()
            if round_:  # the first round warms up
                times[name].append(time.perf_counter() - begin)
    print(f"{n} offers, {rounds} rounds, medians; model {engine.model}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:24} {n / median:8.1f} records/s {tokens[name] / median:9.0f} tokens/s {median:7.2f} s")
    ratio = statistics.median(
        a / b for a, b in zip(times["Extractor, strict"], times["vLLM, grounded grammar"], strict=True)
    )
    print(f"Extractor takes {ratio:.3f} times the time of vLLM called directly with the same constraints")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    engine.close()


@app.command()
def adapters(
    model: str = "base",
    count: Annotated[int, typer.Option(help="Adapters of the mixed load.")] = 50,
    rank: int = 16,
    n: Annotated[int, typer.Option(help="Offers a round.")] = 200,
    rounds: int = 3,
) -> None:
    """Records/s on one vLLM engine with `count` categories: the base model, one adapter for all, and one for each."""
    import peft
    from transformers import AutoModelForCausalLM

    from extractor.adapters import open_adapter
    from extractor.engines.models import resolve_model
    from extractor.engines.vllm_offline import VllmEngine

    own = {s.category: s for s in load_schemas(PROMPTS / "schemas")}
    offers = [o.model_copy(update={"category": f"{o.category} {i % count}"}) for i, o in enumerate(_offers(SAMPLES, n))]
    names = list(dict.fromkeys(str(o.category) for o in offers))
    schemas = [own[name.rpartition(" ")[0]].model_copy(update={"category": name}) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"adapter-{i}" for i in range(count)]
        configuration = peft.LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False)
        for place in places:
            base = AutoModelForCausalLM.from_pretrained(resolve_model(model))
            peft.get_peft_model(base, configuration).save_pretrained(str(place))
        engine = VllmEngine(model, adapters=[open_adapter(place) for place in places])
        loads: dict[str, list[str | None]] = {
            "base": [None],
            "one adapter": [places[0].name],
            "mixed": [place.name for place in places],
        }
        prepared = {
            name: [
                request
                for i, schema in enumerate(schemas)
                for request in _requests(
                    [schema], [o for o in offers if o.category == schema.category], references[i % len(references)]
                )
            ]
            for name, references in loads.items()
        }
        times: dict[str, list[float]] = {name: [] for name in loads}
        for round_ in range(rounds + 1):
            for name, requests in prepared.items():
                engine._llm.reset_prefix_cache()
                begin = time.perf_counter()
                tokens = sum(g.output_tokens for g in engine.generate(requests))
                if round_:  # the first round loads what it needs
                    times[name].append(time.perf_counter() - begin)
                    print(f"{name:12} {n / times[name][-1]:6.1f} records/s {tokens / times[name][-1]:7.0f} tokens/s")
        engine.close()
    ratio = statistics.median(a / b for a, b in zip(times["one adapter"], times["mixed"], strict=True))
    print(f"{count} adapters in a mixed load give {ratio:.2f} of the records/s of one")


def _requests(
    schemas: Sequence[AttributeSchema],
    offers: Sequence[ProductOffer],
    adapter: str | None = None,
    grounding: Any = "strict",
) -> list[GenerationRequest]:
    """What an extractor asks the engine about the offers."""
    recorded: list[GenerationRequest] = []

    def record(request: GenerationRequest) -> Generation:
        recorded.append(request)
        return Generation(finish_reason="error")

    Extractor(ScriptedEngine(record), schemas, grounding=grounding, adapter=adapter).extract(offers)
    return recorded


@app.command()
def pipeline(
    offers: Annotated[int, typer.Option(help="Lines of the large file.")] = 1_000_000,
) -> None:
    """Time and memory of `shelfwise extract` with the scripted engine: reading, rendering, constraint, parsing, writing."""
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["title"].strip()]
    with tempfile.TemporaryDirectory() as folder:
        small, large = (_extract_file(Path(folder), rows, n) for n in (1_000, offers))
    print(f"1,000 offers:   {small[0]:8.1f} s, peak {small[1]:.0f} MiB")
    print(
        f"{offers:,} offers: {large[0]:8.1f} s, peak {large[1]:.0f} MiB, {large[1] - small[1]:.0f} MiB above the start"
    )
    print(f"{1e6 * (large[0] - small[0]) / max(offers - 1_000, 1):.0f} µs a record")


@app.command()
def scores(
    cells: Annotated[int, typer.Option(help="Cells to score.")] = 1_000_000,
    attributes: Annotated[int, typer.Option(help="Attributes asked of an offer.")] = 10,
    rounds: Annotated[int, typer.Option(help="Bootstrap rounds.")] = 1000,
) -> None:
    """Time of all scores with their intervals, over random gold and predictions."""
    from eval.datasets import Dataset
    from eval.metrics import Prediction
    from eval.report import summarize

    rng = Random(1)
    names = [f"attribute {i}" for i in range(attributes)]

    def drawn() -> dict[str, list[str]]:
        return {name: [rng.choice("uvw")] for name in names if rng.random() < 0.6}

    gold = [
        LabelledOffer(id=str(i), title="u v w", category=f"category {i % 20}", attributes=drawn(), absent=names[:3])
        for i in range(cells // attributes)
    ]
    said = [Prediction(values, {k: [rng.random()] for k in values}) for values in (drawn() for _ in gold)]
    schemas = tuple(AttributeSchema.from_names(names, f"category {i}") for i in range(20))
    dataset = Dataset("random", "all", tuple(gold), schemas, {})
    begin = time.perf_counter()
    found = summarize(dataset, said, rounds=rounds)
    low, high = found["published"]["interval"]
    print(f"{cells:,} cells, {rounds:,} rounds: {time.perf_counter() - begin:.1f} s; F1 {low:.2f} to {high:.2f}")


def _extract_file(folder: Path, rows: list[dict[str, Any]], n: int) -> tuple[float, float]:
    source = folder / f"{n}.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for i, row in enumerate(islice(cycle(rows), n)):
            file.write(json.dumps(row | {"id": f"{i}"}, ensure_ascii=False) + "\n")
    command = [sys.executable, "-m", "extractor", "extract", str(source), "--engine", "scripted"]
    command += ["--schema", str(PROMPTS / "schemas"), "--out", str(folder / "records.jsonl")]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status not in (0, 256):
        raise SystemExit(f"extract ended with status {status}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


if __name__ == "__main__":
    app()
