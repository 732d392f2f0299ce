"""`python -m extractor`, and the entry point of `shelfwise`: the commands of all rooms under one name.

Other rooms are mounted by name, so that the library imports neither of them, and a command pays only for its own imports.
"""

import sys
from importlib import import_module

import typer

from extractor.cli import app

ROOMS = (  # word of the command line, commands of another room, the group that they join, and their name in it
    ("finetune", "finetune.cli:app", "extractor.cli:app", "finetune"),
    ("eval", "eval.cli:app", "extractor.cli:app", "eval"),
    ("eval", "eval.compare_cli:app", "eval.cli:app", None),
    ("eval", "eval.baselines.cli:app", "eval.cli:app", None),
    ("eval", "eval.confidence_cli:app", "eval.cli:app", None),
    ("eval", "eval.robustness_cli:app", "eval.cli:app", None),
    ("prompts", "eval.prompts_cli:app", "extractor.prompts_cli:app", None),
    ("adapters", "eval.adapters_cli:app", "extractor.adapters_cli:app", None),
)


def main() -> None:
    room = sys.argv[1] if len(sys.argv) > 1 else ""
    for word, commands, group, name in ROOMS:
        if room in (word, "", "--help"):
            _load(group).add_typer(_load(commands), name=name)
    app()


def _load(target: str) -> typer.Typer:
    module, _, attribute = target.partition(":")
    found: typer.Typer = getattr(import_module(module), attribute)
    return found


if __name__ == "__main__":
    main()
