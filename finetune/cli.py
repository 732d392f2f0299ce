"""Commands of the training room."""

import json
from itertools import islice
from typing import Annotated

import typer

app = typer.Typer(help="Train the base model on synthetic offers.", no_args_is_help=True)


@app.command()
def corpus(n: Annotated[int, typer.Option(help="Number of offers.")] = 5, seed: int = 1) -> None:
    """Print synthetic labelled offers as JSON lines."""
    from finetune.corpus import episodes

    for item in islice(episodes(seed, lambda rng: 1), n):
        print(json.dumps(item.offers[0].model_dump(), ensure_ascii=False))


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
