"""What extraction costs, in whatever currency the prices are: of a million tokens, and of an hour in the engine."""

from collections.abc import Mapping

from extractor.errors import InputError

KINDS = ("prompt", "cached", "output", "hour")


def prices_of(text: str | None) -> dict[str, float] | None:
    """Prices of `--price`, as `prompt=0.4,cached=0.1,output=1.6,hour=2.5`. Raises InputError."""
    if text is None:
        return None
    try:
        prices = {key.strip(): float(value) for key, value in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise InputError(f"--price {text!r}: write prompt=0.4,cached=0.1,output=1.6, or hour=2.5, or both") from error
    if unknown := sorted(prices.keys() - set(KINDS)):
        raise InputError(f"--price: unknown kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    if "prompt" not in prices and prices.keys() != {"hour"}:
        raise InputError("--price: the price of prompt tokens is missing")
    return prices


def money(prices: Mapping[str, float], prompt: int, cached: int, output: int, seconds: float) -> float:
    """`cached` are those of the `prompt` tokens that came from the prefix cache; they cost as much as others where they have no
    price."""
    fresh = prices.get("prompt", 0.0)
    tokens = fresh * (prompt - cached) + prices.get("cached", fresh) * cached + prices.get("output", 0.0) * output
    return tokens / 1e6 + prices.get("hour", 0.0) * seconds / 3600
