"""The commands `shelfwise prompts …`; those that need the evaluation room join them in `eval.prompts_cli`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from extractor.demonstrations import DemonstrationPool
from extractor.errors import InputError
from extractor.io import read_labelled
from extractor.options import Known
from extractor.prompts import PROMPTS, TEMPLATES, list_templates, load_template, release
from extractor.records import ProductOffer
from extractor.schema import load_schema, load_schemas
from extractor.vocabulary import Vocabulary

app = typer.Typer(no_args_is_help=True, help="List, show, render, lint, release, compare and tune prompt templates.")

Root = Annotated[Path, typer.Option("--templates", help="Folder of templates: <name>/<version>.jinja.")]


@app.command("list")
def prompts_list(root: Root = TEMPLATES) -> None:
    """List the templates, name@version."""
    for reference in list_templates(root):
        print(f"{reference}\t{load_template(reference, root).sha256[:12]}")


@app.command("show")
def prompts_show(
    template: Annotated[str, typer.Argument(help="name, name@version or a .jinja file.")], root: Root = TEMPLATES
) -> None:
    """Print a template's source."""
    print(load_template(template, root).source, end="")


@app.command("render")
def prompts_render(
    template: Annotated[str, typer.Argument(help="name, name@version or a .jinja file.")] = "extract",
    schema: Annotated[Path, typer.Option(help="A schema.")] = PROMPTS / "schemas" / "shoes.yaml",
    title: str = "Velmora Suede Loafer, Tan, EU 42",
    description: Annotated[str | None, typer.Option()] = None,
    demonstrations: Annotated[Path | None, typer.Option(help="Labelled offers (JSONL).")] = None,
    k: int = 2,
    known: Known = None,
) -> None:
    """Print the messages that a template makes of an offer."""
    chosen = load_schema(schema)
    offer = ProductOffer(id="render", title=title, description=description, category=chosen.category)
    labelled = read_labelled(demonstrations) if demonstrations else []
    shown = DemonstrationPool(labelled, k).choose(offer, chosen)
    vocabulary = Vocabulary([chosen], labelled if known else ())
    for message in load_template(template).render(chosen, offer, shown, vocabulary.known):
        print(f"--- {message['role']}\n{message['content']}")


@app.command("lint")
def prompts_lint(
    templates: Annotated[list[str] | None, typer.Argument(help="Default: all that are listed.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="Count the tokens of prompts with a schema, or a folder of schemas.")
    ] = None,
    offers: Annotated[Path | None, typer.Option(help="Count them with these offers; none may be shown.")] = None,
    demonstrations: Annotated[Path | None, typer.Option(help="Check these labelled offers (JSONL) too.")] = None,
    k: Annotated[int, typer.Option(min=0, help="Demonstrations in a prompt.")] = 5,
    model: Annotated[str, typer.Option(help="Whose tokens: `base` (bundled) or a folder.")] = "base",
    root: Root = TEMPLATES,
) -> None:
    """Check templates, and with files of yours what becomes of them. A `note:` does not fail."""
    from extractor import lint
    from extractor.lint_inputs import lint_inputs, lint_lengths, read_inputs

    loaded = [load_template(t, root) for t in templates or list_templates(root)]
    findings = [f for t in loaded for f in (*lint.lint_template(t), *lint.lint_release(t))]
    if not templates:
        findings += lint.lint_record(root)
    if schema or offers or demonstrations:
        given = read_inputs(load_schemas(schema or PROMPTS / "schemas"), offers, demonstrations, k)
        findings += lint_inputs(given)
        findings += lint_lengths(loaded, given, model)
    for finding in findings:
        print(finding)
    raise typer.Exit(1 if any(not finding.note for finding in findings) else 0)


@app.command("release")
def prompts_release(
    template: Annotated[str, typer.Argument(help="name@version; it cannot be changed afterwards.")],
    root: Root = TEMPLATES,
) -> None:
    """Record a version's hash, so that `lint` finds it if it is edited."""
    from extractor.lint import lint_template

    loaded = load_template(template, root)
    if loaded.reference != template:
        raise InputError(f"{template!r}: say which version: {loaded.reference}")
    if faults := [f for f in lint_template(loaded) if not f.note]:
        raise InputError(f"{template} is not fit for release: {faults[0]}")
    made = release(loaded, root)
    Console(stderr=True).print(f"{template}: {'released' if made else 'was released before'}", highlight=False)
