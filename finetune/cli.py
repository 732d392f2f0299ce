"""Commands of the training room."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extractor.errors import InputError
from extractor.options import Known, Template
from finetune.active_cli import curves, select

if TYPE_CHECKING:
    from extractor.records import LabelledOffer
    from extractor.schema import AttributeSchema

Labels = Annotated[Path, typer.Option(help="Labelled offers to learn from: a file, or the train split of a folder.")]
Base = Annotated[str, typer.Option(help="`base` (bundled), a folder, a hub name.")]
DropInvalid = Annotated[bool, typer.Option("--drop-invalid", help="Go on without labels that cannot be.")]
Schema = Annotated[Path | None, typer.Option(help="A schema, or a folder of schemas. (default: what the labels name)")]

app = typer.Typer(help="Train adapters on labelled offers, and the base model on synthetic ones.", no_args_is_help=True)


@app.command()
def corpus(n: Annotated[int, typer.Option(help="Number of offers.")] = 5, seed: int = 1) -> None:
    """Print synthetic labelled offers as JSON lines."""
    from finetune.corpus import episodes

    for item in islice(episodes(seed, lambda rng: 1), n):
        print(json.dumps(item.offers[0].model_dump(), ensure_ascii=False))


@app.command()
def lora(
    data: Labels,
    out: Annotated[Path, typer.Option(help="Folder of the adapter's versions; its name is the adapter's.")],
    schema: Schema = None,
    base: Base = "base",
    start: Annotated[
        Path | None, typer.Option(help="An adapter to go on from, in its method and rank; its old labels are replayed.")
    ] = None,
    replay: Annotated[float, typer.Option(min=0, help="Old labels for each new one.")] = 0.5,
    method: Annotated[str, typer.Option(help="lora, rslora, dora, adalora, prefix, full.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Of the update; tokens of a prefix.")] = 16,
    alpha: Annotated[
        float | None, typer.Option(help="Updates are scaled by alpha / rank. (default: twice the rank)")
    ] = None,
    dropout: float = 0.05,
    warmup: Annotated[float, typer.Option(help="Share of the steps.")] = 0.1,
    learning_rate: float = 2e-3,
    epochs: Annotated[int | None, typer.Option(min=1, help="(default: by the number of labels, 8 to 40)")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Offers a pass.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Passes a step.")] = 1,
    held_out: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="Share of the labels that early stopping goes by; 0: learn from all."),
    ] = 0.0,
    patience: Annotated[int, typer.Option(help="With --held-out: epochs without a better score.")] = 4,
    augment: Annotated[
        str, typer.Option(help="swap, order, drop, case, typos, synonyms: names with commas.")
    ] = "swap,order,drop",
    paraphrase: Annotated[
        list[str] | None, typer.Option(help="Another template to learn from too; may be given several times.")
    ] = None,
    freeze: Annotated[int | None, typer.Option(help="With `full`: only the last so many layers learn.")] = None,
    fgm: Annotated[float, typer.Option(help="Adversarial step on embeddings; 0 for none.")] = 0.0,
    template: Template = None,
    k: Annotated[int, typer.Option(min=0, help="Demonstrations in a prompt, of the labels themselves.")] = 0,
    known: Known = None,
    drop_invalid: DropInvalid = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    four_bit: Annotated[
        bool, typer.Option("--four-bit", help="Base weights in 4 bits; needs bitsandbytes and a GPU.")
    ] = False,
    report: Annotated[str, typer.Option(help="Where curves go: tensorboard, wandb, none.")] = "tensorboard",
    seed: int = 0,
) -> None:
    """Train an adapter on labelled offers."""
    from extractor.adapters import open_adapter
    from extractor.cli import errors
    from extractor.config import load_settings
    from finetune.dataset import augmentations
    from finetune.lora import FEWEST, METHODS, SERVED, recipe_for, tune

    if method not in METHODS:
        raise InputError(f"--method: unknown {method!r}; there are {', '.join(METHODS)}")
    settings = load_settings(engine="huggingface", model=base, template=template, k=k, known=known, calibration="none")
    labels, schemas = _labels(data, schema, drop_invalid)
    recipe = recipe_for(
        len(labels),
        method=method,
        rank=rank,
        alpha=alpha or 2.0 * rank,
        dropout=dropout,
        warmup=warmup,
        learning_rate=learning_rate,
        batch=batch,
        accumulate=accumulate,
        held_out=held_out,
        replay=replay,
        patience=patience,
        augment=tuple(augmentations(augment)),
        paraphrases=tuple(paraphrase or ()),
        freeze=freeze,
        fgm=fgm,
        checkpointing=checkpointing,
        four_bit=four_bit,
        seed=seed,
    )
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    if len(labels) < FEWEST:
        errors.print(
            f"{len(labels)} labels teach an adapter little that holds for other offers; as demonstrations they serve at once: "
            f"shelfwise extract … --demonstrations {data} (an adapter is trained all the same)"
        )
    folder, card = tune(labels, schemas, settings, out, recipe, report, start=open_adapter(start) if start else None)
    held = f", F1 {card.scores['f1']:.1f} on {card.scores['offers']} held-out ones" if "f1" in card.scores else ""
    print(f"{card.name}@{card.version} in {folder}: learned from {card.labels} offers{held}")
    if (old := card.scores.get("old")) and old["offers"]:
        print(f"F1 on {old['offers']} of its old labels: {old['before']:.1f} before, {old['after']:.1f} after")
    if method in SERVED[:2]:
        asked = f" --schema {schema}" if schema else ""
        print(
            f"next: shelfwise adapters promote {card.name}@{card.version} --adapters {out.parent} --data HELD_OUT_LABELS{asked}"
        )
    elif method != "full":
        print("vLLM does not serve this method; extract with --engine huggingface")


@app.command()
def merge(
    adapters: Annotated[
        list[Path],
        typer.Argument(help="Folders of two adapters or more: of different categories, or seeds of the same labels."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the merged adapter's versions.")],
    base: Base = "base",
    weight: Annotated[
        float | None, typer.Option(help="How much each update counts. (default: 1; seeds: their mean)")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled offers that none has learned from: says the cost.")
    ] = None,
    schema: Schema = None,
) -> None:
    """Make one adapter of several, and say what it costs each."""
    from eval.datasets import load_dataset
    from extractor.adapters import open_adapter
    from extractor.config import load_settings
    from finetune.merge import cost
    from finetune.merge import merge as merged

    settings = load_settings(engine="huggingface", model=base, calibration="none")
    opened = [open_adapter(folder) for folder in adapters]
    folder, card = merged(opened, settings, out, weight)
    print(f"{card.name}@{card.version} in {folder}: {' + '.join(a.reference for a in opened)}")
    if data:
        scored = load_dataset(data, "validation" if data.is_dir() else None, None, schema)
        for name, offers, alone, together in cost(opened, folder, scored.offers, scored.schemas, settings):
            print(f"{name}: F1 on {offers} offers {alone:.1f} alone, {together:.1f} merged")


@app.command()
def search(
    data: Labels,
    out: Annotated[Path, typer.Option(help="Folder of the search, which goes on where it was stopped.")],
    schema: Schema = None,
    base: Base = "base",
    trials: Annotated[int | None, typer.Option(min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Of all trials together.")] = None,
    template: Template = None,
    known: Known = None,
    drop_invalid: DropInvalid = False,
    seed: int = 0,
) -> None:
    """Search rank, learning rate, warm-up, dropout, epochs and augmentation of an adapter, on labels held out from all trials."""
    from extractor.config import load_settings
    from finetune.lora import recipe_for
    from finetune.search import search as run

    settings = load_settings(engine="huggingface", model=base, template=template, k=0, known=known, calibration="none")
    labels, schemas = _labels(data, schema, drop_invalid)
    found = run(labels, schemas, settings, out, recipe_for(len(labels), seed=seed), trials, minutes)
    low, high = found["learning_rates"]
    print(
        f"{found['trials']} trials, {found['pruned']} of them pruned, {found['minutes']} minutes; all in {out}/search.json"
    )
    print(f"learning rates within a point of the best: {low:.1e} to {high:.1e}")
    options = " ".join(f"--{name.replace('_', '-')} {value or repr('')}" for name, value in found["best"].items())
    print(f"F1 {found['f1']:.1f} on held-out labels: shelfwise finetune lora --data {data} --out … {options}")


@app.command()
def quantize(
    out: Annotated[Path, typer.Option(help="Folder of the 8-bit model; `--model` takes it.")],
    model: Annotated[str, typer.Option(help="`base` (bundled), a folder, a hub name.")] = "base",
) -> None:
    """Write a model with linear layers in 8 bits (W8A8), as vLLM serves it."""
    from finetune.quantize import quantize as run

    folder = run(model, out)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(
        f"{folder}: {size:.1f} MB; what it costs: shelfwise eval run --data … --model {folder}, and with --model {model}"
    )


app.command()(select)
app.command()(curves)


def _labels(data: Path, schema: Path | None, drop_invalid: bool) -> "tuple[list[LabelledOffer], list[AttributeSchema]]":
    """Checked labels and their schemas; what was left out is said."""
    from eval.datasets import load_dataset
    from extractor.cli import errors
    from extractor.lint_inputs import placed
    from finetune.dataset import checked

    training = load_dataset(data, "train" if data.is_dir() else None, None, schema)
    file = data / "train.jsonl" if data.is_dir() else data
    rows = placed(file, training.offers) if file.suffix == ".jsonl" else [(str(file), o) for o in training.offers]
    labels, dropped = checked(rows, training.schemas, drop_invalid)
    for problem in dropped:
        errors.print(f"left out: {problem}")
    return labels, list(training.schemas)


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
