"""Token log-probabilities -> a confidence per value, and the curve that makes it the share of such values that are right."""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extractor.errors import InputError, explain

FILE = "calibration.json"  # in the folder of the model or adapter that it was fitted on
CLIP = 5e-5  # half the last digit of a confidence: 0 and 1 have no logit


def token_ends(pieces: Sequence[str], text: str) -> list[int]:
    """For each token, the end of its text in `text` (code points).

    A token that holds only part of a character decodes to U+FFFD; its end is that of the token which completes it.
    """
    ends: list[int] = []
    position = 0
    for piece in pieces:
        clean = piece.replace("\ufffd", "")
        if clean:
            found = text.find(clean, position)
            # A gap can only be characters that incomplete tokens before this one stand for.
            position = found + len(clean) if found >= 0 else min(position + len(clean), len(text))
        ends.append(position)
    return ends


def span_confidence(ends: Sequence[int], logprobs: Sequence[float], begin: int, end: int) -> float | None:
    """Probability that the model writes exactly the characters begin..end, given all before: the product of the
    probabilities of the tokens that touch them. Under a constraint these are probabilities among what it allows.

    The token before `begin` counts where it ends at `begin`, and so decides nothing, only if it overlaps; quotes belong to
    the span, so that the choice between a value and null is part of it.
    """
    if not logprobs:
        return None
    first = bisect_left(ends, begin + 1)
    last = bisect_left(ends, end)
    total = sum(logprobs[first : last + 1])
    return round(min(1.0, math.exp(total)), 4)


# --- calibration ------------------------------------------------------------------------------------------------------

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Isotonic(_Frozen):
    """Linear between the knots (x, y), level outside them (Zadrozny and Elkan 2002, https://doi.org/10.1145/775047.775151)."""

    method: Literal["isotonic"] = "isotonic"
    x: tuple[Share, ...] = Field(min_length=1)
    y: tuple[Share, ...]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} knots have {len(self.y)} values")
        if list(self.x) != sorted(set(self.x)) or list(self.y) != sorted(self.y):
            raise ValueError("the knots do not rise")
        return self

    def at(self, confidence: float) -> float:
        i = bisect_right(self.x, confidence)
        if i in (0, len(self.x)):
            return self.y[max(i - 1, 0)]
        rise = (self.y[i] - self.y[i - 1]) / (self.x[i] - self.x[i - 1])
        return self.y[i - 1] + rise * (confidence - self.x[i - 1])


class Platt(_Frozen):
    """A logistic function of the confidence's logit (Platt 1999; on logits as in Guo et al. 2017,
    https://arxiv.org/abs/1706.04599)."""

    method: Literal["platt"] = "platt"
    slope: float = Field(ge=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)

    def at(self, confidence: float) -> float:
        return 0.5 + 0.5 * math.tanh(0.5 * (self.slope * clipped_logit(confidence) + self.intercept))


def clipped_logit(confidence: float) -> float:
    inside = min(max(confidence, CLIP), 1 - CLIP)
    return math.log(inside / (1 - inside))


class FittedOn(_Frozen):
    """Where a curve comes from: `values` predicted for `offers`; `demonstrations` in a prompt, 0 without."""

    data: str
    split: str
    offers: int
    values: int
    model: str
    adapter: str | None = None
    template: str
    demonstrations: int = 0


class Calibration(_Frozen):
    """Maps a confidence in 0..1 to the share of values of such confidence that are right; never reverses an order.

    One curve serves all attributes. Expected calibration errors are in 0..1; the one after is that of cross-validation over
    offers.
    """

    curve: Annotated[Isotonic | Platt, Field(discriminator="method")]
    fitted_on: FittedOn
    error_before: Share
    error_after: Share

    def __call__(self, confidence: float) -> float:
        return round(min(1.0, max(0.0, self.curve.at(confidence))), 4)

    @cached_property
    def reference(self) -> str:
        """method@hash of the curve, as provenance names it."""
        return f"{self.curve.method}@{hashlib.sha256(self.curve.model_dump_json().encode()).hexdigest()[:12]}"

    def check(self, model: str, adapter: str | None) -> None:
        """Raises InputError if this is the curve of another model or adapter: its confidences mean something else."""
        fitted, given = (self.fitted_on.model, self.fitted_on.adapter), (model, adapter)
        if fitted != given:
            names = [" with adapter ".join(filter(None, pair)) for pair in (fitted, given)]
            raise InputError(
                f"the calibration was fitted on {names[0]}, not on {names[1]}; "
                "fit one with `shelfwise eval calibrate`, or pass --calibration none"
            )


def load_calibration(path: Path) -> Calibration:
    """Read a calibration.json. Raises InputError with the file and the key."""
    try:
        return Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: no calibration can be read there: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    except ValidationError as error:
        raise InputError(f"{path}: not a calibration: {explain(error)}") from error
