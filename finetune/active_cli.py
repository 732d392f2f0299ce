"""Commands about what to label next: `shelfwise finetune select` and `curves`."""

from pathlib import Path
from typing import Annotated

import typer

from extractor.errors import InputError
from extractor.options import Adapter, Demonstrations, Engine, K, Known, Model, Template


def select(
    data: Annotated[Path, typer.Option(help="Offers without labels: JSONL, CSV or Parquet.")],
    out: Annotated[Path, typer.Option(help="File of the chosen offers (JSONL), the most useful first.")],
    n: Annotated[int, typer.Option(min=1, help="Offers to choose.")] = 30,
    schema: Annotated[
        Path | None, typer.Option(help="A schema, or a folder of schemas. (default: the shipped)")
    ] = None,
    strategy: Annotated[str, typer.Option(help="mixed, uncertainty, disagreement, diversity, random.")] = "mixed",
    engine: Engine = None,
    model: Model = None,
    adapter: Adapter = None,
    template: Annotated[
        list[str] | None, typer.Option(help="name, name@version or a .jinja file; with disagreement two or more.")
    ] = None,
    demonstrations: Demonstrations = None,
    k: K = None,
    known: Known = None,
    seed: int = 0,
) -> None:
    """Choose the offers whose labels would teach the most."""
    from extractor.cli import errors
    from extractor.config import load_settings
    from extractor.demonstrations import check_demonstrations
    from extractor.io import OfferReader, read_labelled
    from extractor.prompts import PROMPTS
    from extractor.records import ProductOffer
    from extractor.schema import load_schemas
    from finetune.active import answers_for, asking, strategy_named, ways_of
    from finetune.active import select as chosen

    kind = strategy_named(strategy)
    settings = load_settings(engine=engine, model=model, adapter=adapter, k=k, known=known)
    labels = read_labelled(demonstrations) if demonstrations else []
    labelled = {offer.id for offer in labels}
    rows = list(OfferReader(data))
    offers = [row for row in rows if isinstance(row, ProductOffer) and row.id not in labelled]
    if len(offers) < len(rows):
        errors.print(f"{len(rows) - len(offers)} of {len(rows)} rows are no offers, or are labelled already")
    schemas = load_schemas(schema or PROMPTS / "schemas")
    check_demonstrations(labels, schemas)
    with asking(ways_of(settings, kind, template or [], len(labels)), schemas) as ask:
        places = chosen(offers, n, kind, answers_for(kind, ask, labels, offers), seed)
    out.write_text("".join(offers[i].model_dump_json(exclude_none=True) + "\n" for i in places), encoding="utf-8")
    print(
        f"{len(places)} of {len(offers)} offers in {out}, the most useful first; label them, then: shelfwise finetune lora"
    )


def curves(
    data: Annotated[Path, typer.Option(help="A folder with labelled `train`, whose labels are bought, and `split`.")],
    split: Annotated[str, typer.Option(help="What is scored.")] = "validation",
    budgets: Annotated[str, typer.Option(help="Labels after each round, with commas.")] = "30,60,120",
    strategies: Annotated[str, typer.Option(help="With commas.")] = "random,uncertainty,disagreement,diversity,mixed",
    pool: Annotated[int, typer.Option(min=1, help="Offers of train to choose from.")] = 400,
    n: Annotated[int | None, typer.Option(help="Offers that are scored. (default: all)")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    engine: Engine = None,
    model: Model = None,
    template: Template = None,
    k: K = None,
) -> None:
    """F1 by the number of labels, chosen in each way: is choosing better than labelling any offers?"""
    from statistics import mean, stdev

    from eval.compare import budgets_of, drawn
    from eval.datasets import load_dataset
    from extractor.config import load_settings
    from finetune.active import asking, curve, strategy_named, ways_of

    kinds = [strategy_named(s.strip()) for s in strategies.split(",")]
    rounds = [budget for budget in budgets_of(budgets) if budget]
    settings = load_settings(engine=engine, model=model, template=template, k=k)
    training, scored = load_dataset(data, "train"), load_dataset(data, split)
    held_out = list(scored.offers)[:n]
    if rounds != sorted(set(rounds)) or not rounds or rounds[-1] > min(pool, len(training.offers)):
        raise InputError(f"--budgets {budgets}: numbers of labels that rise, up to --pool and to the offers of train")
    print("strategy      " + "".join(f"{b:>8} labels" for b in rounds))
    with asking(ways_of(settings, "disagreement", [], len(training.offers)), training.schemas) as ask:
        for kind in kinds:
            found = []
            for seed in range(seeds):
                offers = drawn(training, pool, seed)
                found.append([f1 for _, f1 in curve(offers, held_out, training.schemas, rounds, kind, ask, seed)])
            columns = [(mean(f1s), stdev(f1s) if seeds > 1 else 0.0) for f1s in zip(*found, strict=True)]
            print(f"{kind:<14}" + "".join(f"{m:>8.1f} ± {s:<4.1f}" for m, s in columns), flush=True)
