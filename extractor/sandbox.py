"""Templates of unknown hands, checked and rendered in a process of their own: a template is a program, and may never end.

python -m extractor.sandbox < asked.json
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from extractor.errors import ShelfwiseError, TemplateError
from extractor.lint import Finding, lint_template
from extractor.prompts import SILENT, Known, Message, compile_template
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema

PLACE = Path("template")  # what findings and errors name
SECONDS, MEMORY, WRITTEN = 3, 512 << 20, 1_000_000  # of one process; memory in bytes, what it answers in characters
_PATIENCE = 5 * SECONDS  # seconds on the clock, on a machine that is busy
_ROOM, _DOOR = BoundedSemaphore(2), BoundedSemaphore(10)  # processes at once; who has one or waits for it
_WAIT = 10.0  # seconds at the door


class NoRoom(ShelfwiseError):
    """More templates are tried at once than may."""

    retryable = True


def findings(text: str) -> list[Finding]:
    """What `lint` says of a template; what it breaks on, or that it takes too much, is the first finding. Raises NoRoom."""
    try:
        return [Finding(**found) for found in _asked({"text": text})]
    except TemplateError as error:
        where, _, message = str(error).partition(": ")
        return [Finding(where, message)]


def rendered(
    text: str,
    schema: AttributeSchema,
    offer: ProductOffer,
    demonstrations: Sequence[LabelledOffer],
    known: Known,
) -> list[Message]:
    """As `Template.render`. Raises TemplateError, and NoRoom."""
    offers = (*demonstrations, offer)
    messages: list[Message] = _asked(
        {
            "text": text,
            "schema": schema.written(),
            "offers": [o.model_dump(include=set(LabelledOffer.model_fields)) for o in offers],
            "known": [known(schema, o) for o in offers],
        }
    )
    return messages


def _asked(asked: Mapping[str, Any]) -> Any:
    if "{%" not in asked["text"]:
        raise TemplateError(f"{PLACE}: {SILENT}")
    command = [sys.executable, "-m", "extractor.sandbox"]
    try:
        with _place():
            done = subprocess.run(
                command, input=json.dumps(asked).encode(), capture_output=True, timeout=_PATIENCE, check=False
            )
    except subprocess.TimeoutExpired:
        raise TemplateError(f"{PLACE}: takes too long; write shorter loops") from None
    if done.returncode:
        raise TemplateError(f"{PLACE}: takes more than {SECONDS} s or {MEMORY >> 20} MiB; write shorter loops")
    answer = json.loads(done.stdout)
    if problem := answer.get("problem"):
        raise TemplateError(problem)
    return answer["is"]


@contextmanager
def _place() -> Iterator[None]:
    """Few may wait, and not for long: who waits holds a thread that others need."""
    full = NoRoom("other templates are being tried; try again")
    if not _DOOR.acquire(blocking=False):
        raise full
    try:
        if not _ROOM.acquire(timeout=_WAIT):
            raise full
        try:
            yield
        finally:
            _ROOM.release()
    finally:
        _DOOR.release()


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _answer(asked: Mapping[str, Any]) -> Any:
    template = compile_template(asked["text"], "draft", PLACE)
    if "schema" not in asked:
        return [vars(finding) for finding in lint_template(template)]
    schema = AttributeSchema.model_validate(asked["schema"])
    *shown, offer = asked["offers"]
    demonstrations = [LabelledOffer.model_validate(d) for d in shown]
    known = iter(asked["known"])  # in the order in which they are asked for
    return template.render(
        schema, ProductOffer.model_validate(offer), demonstrations, lambda schema, offer: next(known)
    )


def main() -> None:
    asked = json.load(sys.stdin)
    _bound()
    try:
        answer = {"is": _answer(asked)}
    except TemplateError as error:
        answer = {"problem": str(error)}
    written = json.dumps(answer)
    if len(written) > WRITTEN:
        written = json.dumps({"problem": f"{PLACE}: writes more than {WRITTEN} characters; write shorter loops"})
    sys.stdout.write(written)


if __name__ == "__main__":
    main()
