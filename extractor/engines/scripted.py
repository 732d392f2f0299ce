"""The shipped fake: answers come from a function or, without one, from the constraint's own shape. For tests, for
benchmarks of everything around the model, and for faults."""

import time
from collections.abc import Callable

from extractor.engines.base import Generation, GenerationRequest
from extractor.errors import EngineUnavailable

Script = Callable[[GenerationRequest], str | Generation]


class ScriptedEngine:
    """Writes what `script` says. `delay` is in seconds per call; calls whose number (from 0) is in `failing` raise
    EngineUnavailable."""

    name = "scripted"
    model = "scripted@1"
    retried = 0

    def __init__(self, script: Script | None = None, delay: float = 0.0, failing: frozenset[int] = frozenset()) -> None:
        self._script = script or first_words
        self._delay, self._failing = delay, failing
        self.calls = 0

    def generate(self, requests: list[GenerationRequest]) -> list[Generation]:
        call, self.calls = self.calls, self.calls + 1
        time.sleep(self._delay)
        if call in self._failing:
            raise EngineUnavailable("scripted: this call fails, as it was told to")
        return [self._generation(self._script(request)) for request in requests]

    def close(self) -> None:
        pass

    @staticmethod
    def _generation(written: str | Generation) -> Generation:
        if isinstance(written, Generation):
            return written
        return Generation(text=written, pieces=[written], logprobs=[0.0], output_tokens=1)


def first_words(request: GenerationRequest) -> str:
    """An answer with the title's first word for the first attribute, and null for the others: reads the attribute names
    and the title from a prompt of the shipped templates."""
    names = [line[2:].split(" [")[0].split(": ")[0].split(" e.g. ")[0] for line in _lines(request) if line[:2] == "- "]
    words = request.messages[-1]["content"].removeprefix("<title>").split("</title>")[0].split()
    members = [f'"{name}": null' for name in names]
    if names and words:
        word = words[0].replace("\\", "\\\\").replace('"', '\\"')
        members[0] = f'"{names[0]}": "{word}"'
    return "{" + ", ".join(members) + "}"


def _lines(request: GenerationRequest) -> list[str]:
    return request.messages[0]["content"].split("\n")
