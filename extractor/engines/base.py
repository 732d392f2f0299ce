"""What an engine is: the only place where a model is called, and where it can be swapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from extractor.prompts import Message

if TYPE_CHECKING:
    from outlines.types import CFG, JsonSchema

FinishReason = Literal["stop", "length", "overflow", "error"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt with the constraint of its answer. `max_tokens` bounds the answer; `adapter` is the reference of one that the
    engine was given, None the model alone."""

    messages: list[Message]
    constraint: "CFG | JsonSchema"
    max_tokens: int
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote. `pieces` and `logprobs` go token by token, the end token left out; empty where the engine has
    none. `finish_reason`: `stop`; `length`, the limit was reached; `overflow`, the prompt does not fit, see `message`;
    `error`, this one request was refused, see `message`."""

    text: str = ""
    pieces: Sequence[str] = ()
    logprobs: Sequence[float] = ()
    finish_reason: FinishReason = "stop"
    message: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    context: int = 0  # tokens that the model allows, where an overflow reports it


class Engine(Protocol):
    """`generate` answers every request, in order. What concerns one request is a `Generation` with its reason; what
    concerns all is an `EngineError`. `name` and `model` go into provenance; `retried` counts requests that were sent
    again, over the engine's life."""

    name: str
    model: str
    retried: int

    def generate(self, requests: list[GenerationRequest]) -> list[Generation]: ...

    def close(self) -> None: ...


def overflow(prompt_tokens: int, max_tokens: int, context: int) -> Generation:
    """The generation of a prompt that is too long."""
    return Generation(
        finish_reason="overflow",
        message=f"the prompt has {prompt_tokens} tokens and the answer may take {max_tokens};"
        f" the model allows {context} together",
        prompt_tokens=prompt_tokens,
        context=context,
    )
