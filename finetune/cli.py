"""Commands of the training room."""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from extractor.errors import InputError
from extractor.options import Known, Template

Schema = Annotated[Path | None, typer.Option(help="A schema, or a folder of schemas. (default: what the labels name)")]

app = typer.Typer(help="Train the base model on synthetic offers.", no_args_is_help=True)


@app.command()
def corpus(n: Annotated[int, typer.Option(help="Number of offers.")] = 5, seed: int = 1) -> None:
    """Print synthetic labelled offers as JSON lines."""
    from finetune.corpus import episodes

    for item in islice(episodes(seed, lambda rng: 1), n):
        print(json.dumps(item.offers[0].model_dump(), ensure_ascii=False))


@app.command()
def lora(
    data: Annotated[Path, typer.Option(help="Labelled offers to learn from: a file, or the train split of a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the adapter's versions; its name is the adapter's.")],
    schema: Schema = None,
    base: Annotated[str, typer.Option(help="`base` (bundled), a folder, a hub name.")] = "base",
    method: Annotated[str, typer.Option(help="lora, rslora, dora, adalora, prefix, full.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Of the update; tokens of a prefix.")] = 16,
    alpha: Annotated[
        float | None, typer.Option(help="Updates are scaled by alpha / rank. (default: twice the rank)")
    ] = None,
    dropout: float = 0.05,
    learning_rate: float = 2e-3,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Offers a pass.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Passes a step.")] = 1,
    held_out: Annotated[float, typer.Option(help="Share of the labels for early stopping, of 50 or more.")] = 0.1,
    patience: Annotated[int, typer.Option(help="Epochs without a better score.")] = 4,
    augment: Annotated[str, typer.Option(help="swap, order, drop, case, typos, synonyms: names with commas.")] = "",
    freeze: Annotated[int | None, typer.Option(help="With `full`: only the last so many layers learn.")] = None,
    fgm: Annotated[float, typer.Option(help="Adversarial step on embeddings; 0 for none.")] = 0.0,
    template: Template = None,
    k: Annotated[int, typer.Option(min=0, help="Demonstrations in a prompt, of the labels themselves.")] = 0,
    known: Known = None,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Go on without labels that cannot be.")] = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    four_bit: Annotated[
        bool, typer.Option("--four-bit", help="Base weights in 4 bits; needs bitsandbytes and a GPU.")
    ] = False,
    report: Annotated[str, typer.Option(help="Where curves go: tensorboard, wandb, none.")] = "tensorboard",
    seed: int = 0,
) -> None:
    """Train an adapter on labelled offers."""
    from eval.datasets import load_dataset
    from extractor.cli import errors
    from extractor.config import load_settings
    from extractor.lint_inputs import placed
    from finetune.dataset import augmentations, checked
    from finetune.lora import FEWEST, METHODS, SERVED, Recipe, tune

    if method not in METHODS:
        raise InputError(f"--method: unknown {method!r}; there are {', '.join(METHODS)}")
    settings = load_settings(engine="huggingface", model=base, template=template, k=k, known=known, calibration="none")
    training = load_dataset(data, "train" if data.is_dir() else None, None, schema)
    file = data / "train.jsonl" if data.is_dir() else data
    rows = placed(file, training.offers) if file.suffix == ".jsonl" else [(str(file), o) for o in training.offers]
    labels, dropped = checked(rows, training.schemas, drop_invalid)
    for problem in dropped:
        errors.print(f"left out: {problem}")
    recipe = Recipe(
        method=method,
        rank=rank,
        alpha=alpha or 2.0 * rank,
        dropout=dropout,
        learning_rate=learning_rate,
        epochs=epochs,
        batch=batch,
        accumulate=accumulate,
        held_out=held_out,
        patience=patience,
        augment=tuple(augmentations(augment)),
        freeze=freeze,
        fgm=fgm,
        checkpointing=checkpointing,
        four_bit=four_bit,
        seed=seed,
    )
    if len(labels) < FEWEST:
        errors.print(
            f"{len(labels)} labels teach an adapter little that holds for other offers; as demonstrations they serve at once: "
            f"shelfwise extract … --demonstrations {data} (an adapter is trained all the same)"
        )
    folder, card = tune(labels, training.schemas, settings, out, recipe, report)
    held = f", F1 {card.scores['f1']:.1f} on {card.scores['offers']} held-out ones" if card.scores else ""
    print(f"{card.name}@{card.version} in {folder}: learned from {card.labels} offers{held}")
    if method in SERVED[:2]:
        print(
            f"next: shelfwise adapters promote {card.name}@{card.version} --adapters {out.parent} --data HELD_OUT_LABELS"
        )
    elif method != "full":
        print("vLLM does not serve this method; extract with --engine huggingface")


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # torch is loaded only by what needs it


@app.command(context_settings=PASSED_ON, add_help_option=False)
def start(context: typer.Context) -> None:
    """Write the base model's tokenizer and first weights (`--help` lists the options)."""
    from finetune.start import start as command

    typer.main.get_command(_single(command))(context.args, prog_name="finetune start")


@app.command(context_settings=PASSED_ON, add_help_option=False)
def pretrain(context: typer.Context) -> None:
    """Train the base model (`--help` lists the options)."""
    from finetune.pretrain import pretrain as command

    typer.main.get_command(_single(command))(context.args, prog_name="finetune pretrain")


def _single(command: object) -> typer.Typer:
    single = typer.Typer(add_completion=False)
    single.command()(command)  # type: ignore[type-var]
    return single
