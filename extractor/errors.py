"""Everything that can go wrong, as one tree.

    ShelfwiseError
    ├── InputError              the caller's mistake: exit status 2
    │   ├── SchemaError         an attribute schema that contradicts itself; names file, line and key
    │   ├── TemplateError       a template that does not load, or asks for a variable that nobody gives
    │   ├── DemonstrationError  a labelled offer whose values are not in its own text
    │   ├── AdapterError        adapter weights that do not belong to this base model
    │   ├── ConflictError       somebody else decides, or has decided
    │   └── MissingExtraError   a package of an optional extra is not installed
    ├── StorageError            a folder or a database that cannot be written: full, read-only, gone
    └── EngineError             the model cannot answer; `retryable` says whether trying again can help
        ├── ModelNotFoundError  no model where `--model` points
        └── EngineUnavailable   a server that does not answer, or answers that it is overloaded

A single offer that cannot be extracted is no exception: it is a `Failure` value (see `extractor.records`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class ShelfwiseError(Exception):
    """Base of all errors raised on purpose. The message says what is wrong, where, and what to do."""

    retryable = False


class InputError(ShelfwiseError):
    """Input, options or files that cannot be used as they are."""


class SchemaError(InputError):
    """An attribute schema that cannot be used."""


class TemplateError(InputError):
    """A prompt template that cannot be loaded or rendered."""


class DemonstrationError(InputError):
    """Labelled offers that contradict their own text or their schema."""


class AdapterError(InputError):
    """Adapter weights that cannot be used with this base model."""


class ConflictError(InputError):
    """What is to be decided is in the hands of somebody else, or was decided by them."""


class MissingExtraError(InputError):
    """An optional extra is needed and missing."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)  # so that it can be pickled

    def __str__(self) -> str:
        package, extra = self.args
        return f"{package} is not installed; install it with: pip install 'shelfwise[{extra}]'"


class StorageError(ShelfwiseError):
    """A folder or a database that cannot be written or reached any more. What was finished before is whole."""

    retryable = True


class EngineError(ShelfwiseError):
    """The engine cannot answer, for a reason that holds for every request. `answer` is what it said, which may hold offers' text:
    for their owner, and nobody else."""

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message, answer)

    def __str__(self) -> str:
        return ": ".join(filter(None, self.args))


class ModelNotFoundError(EngineError):
    """The model folder or name does not lead to a model."""


class EngineUnavailable(EngineError):
    """The server did not answer after all retries; trying again later can help."""

    retryable = True


def public(error: Exception) -> str:
    """What may be said to others than the owner of the offers that were asked about."""
    if isinstance(error, EngineError):
        return str(error.args[0])
    return str(error) if isinstance(error, ShelfwiseError) else type(error).__name__


def explain(error: "ValidationError") -> str:
    """The first problem of data that breaks its model: where, and what."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
