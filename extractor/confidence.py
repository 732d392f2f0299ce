"""Token log-probabilities -> a confidence per value."""

import math
from bisect import bisect_left
from collections.abc import Sequence


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
