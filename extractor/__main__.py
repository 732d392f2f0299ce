"""`python -m extractor`, and the entry point of `shelfwise`: the commands of all rooms under one name.

Other rooms are mounted by name, so that the library imports neither of them, and a command pays only for its own imports.
"""

import sys
from importlib import import_module

import typer

from extractor.cli import app
from extractor.prompts_cli import app as prompts_app

ROOMS = {  # word of the command line: commands of another room, and the group that they join
    "finetune": ("finetune.cli:app", app, "finetune"),
    "eval": ("eval.cli:app", app, "eval"),
    "prompts": ("eval.prompts_cli:app", prompts_app, None),
}


def main() -> None:
    room = sys.argv[1] if len(sys.argv) > 1 else ""
    for word, (target, group, name) in ROOMS.items():
        if room in (word, "", "--help"):
            module, _, attribute = target.partition(":")
            commands: typer.Typer = getattr(import_module(module), attribute)
            group.add_typer(commands, name=name)
    app()


if __name__ == "__main__":
    main()
