"""`python -m extractor`, and the entry point of `shelfwise`: the commands of all rooms under one name.

Other rooms are mounted by name, so that the library imports neither of them, and a command pays only for its own imports.
"""

import sys
from importlib import import_module

from extractor.cli import app

ROOMS = {"finetune": "finetune.cli:app"}


def main() -> None:
    room = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, target in ROOMS.items():
        if room in (name, "", "--help"):
            module, _, attribute = target.partition(":")
            app.add_typer(getattr(import_module(module), attribute), name=name)
    app()


if __name__ == "__main__":
    main()
