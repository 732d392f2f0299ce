"""Find each value in the offer: field, begin, end."""

import re
from collections.abc import Iterator
from functools import lru_cache

from extractor.records import TEXT_FIELDS, Evidence


def find_span(
    value: str, texts: dict[str, str], *, ignore_case: bool = False, anywhere: bool = True
) -> Evidence | None:
    """The place of `value` in the texts, or None.

    Where a value stands more than once, the first occurrence that is a whole word wins, title before description; if none
    is a whole word, the first occurrence. A whole word has no letter or digit run going on beyond its ends ("27" is whole
    in `27"`, and neither in "2700" nor in "27.5"). Unless `anywhere`, an occurrence has to begin a word and end no number
    early: "men" is found in "Mens", and not in "Women".
    """
    first: Evidence | None = None
    for field in TEXT_FIELDS:
        text = texts.get(field, "")
        for begin, end in _occurrences(value, text, ignore_case):
            evidence = Evidence.model_construct(field=field, begin=begin, end=end)
            if whole(text, begin, end):
                return evidence
            if anywhere or _begins_word(text, begin, end):
                first = first or evidence
    return first


def _occurrences(value: str, text: str, ignore_case: bool) -> Iterator[tuple[int, int]]:
    if ignore_case:
        yield from (match.span() for match in _pattern(value).finditer(text))
        return
    begin = text.find(value) if value else -1
    while begin >= 0:
        yield begin, begin + len(value)
        begin = text.find(value, begin + 1)


@lru_cache(maxsize=1024)
def _pattern(value: str) -> re.Pattern[str]:
    return re.compile(re.escape(value), re.IGNORECASE)


def whole(text: str, begin: int, end: int) -> bool:
    """Whether the span breaks no word and no number."""
    return not _joined(text, begin) and not _joined(text, end)


def singular(text: str, begin: int, end: int) -> bool:
    """Whether the span is a word but for its last s: "Men" in "Mens"."""
    return (
        text[end : end + 1] in ("s", "S")
        and end - begin > 1
        and text[end - 1] not in "sS"
        and whole(text, begin, end + 1)
    )


def _begins_word(text: str, begin: int, end: int) -> bool:
    """Whether a word begins here (in scripts without case, anywhere: Chinese has no spaces) and no number is cut."""
    caseless = text[begin].isalpha() and text[begin].lower() == text[begin].upper()
    return (caseless or not _joined(text, begin)) and not (text[end - 1].isdigit() and _joined(text, end))


def _joined(text: str, cut: int) -> bool:
    """Whether a cut before `text[cut]` would break a word or a number ("5W" is two words, "12.5" is one number)."""
    before, after = text[max(cut - 2, 0) : cut], text[cut : cut + 2]
    if not before or not after:
        return False
    if before[-1].isdigit() and after[0].isdigit():
        return True
    if before[-1].isalpha() and after[0].isalpha():
        return True
    inside = before[-1] in ".," and before[0].isdigit() and after[0].isdigit()
    return inside or (before[-1].isdigit() and after[0] in ".," and after[1:].isdigit())
