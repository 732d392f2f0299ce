"""Texts as sequences of an encoder, with the place in the offer of every piece."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from extractor.records import ProductOffer

LENGTH = 256  # pieces of a window
Word = tuple[str, int, int]  # field, begin, end
Place = Callable[
    [int, int, int], Word | None
]  # number of the segment, begin and end in it -> where that is in the offer


@dataclass(frozen=True)
class Window:
    """One sequence for the encoder; `words` has the word that each piece is of, None for pieces that are no text of the offer."""

    input_ids: list[int]
    token_type_ids: list[int]
    words: list[Word | None]

    def first_pieces(self) -> Iterator[tuple[int, Word]]:
        """The pieces that begin a word, which carry its label, as in BERT's own recipe (Devlin et al. 2019, section 5.3)."""
        for position, (before, word) in enumerate(pairwise([None, *self.words])):
            if word is not None and word != before:
                yield position, word


def offer_windows(tokenizer: Any, offer: ProductOffer, length: int = LENGTH) -> list[Window]:
    """The sequences of one offer: a long description in overlapping windows, each with the title before it. A title so long
    that a description would hardly fit beside it stands alone."""
    texts = offer.texts()
    if len(texts) == 2 and len(tokenizer.tokenize(offer.title)) <= length // 2:
        fields = list(texts)
        return encoded(tokenizer, list(texts.values()), lambda segment, b, e: (fields[segment], b, e), length)
    return [
        window
        for field, text in texts.items()
        for window in encoded(tokenizer, [text], lambda _, b, e, field=field: (field, b, e), length)  # type: ignore[misc]
    ]


def question_windows(tokenizer: Any, question: str, offer: ProductOffer, length: int = LENGTH) -> list[Window]:
    """The question as first segment, title and description as second, in overlapping windows."""
    title, context = len(offer.title), "\n".join(offer.texts().values())

    def place(segment: int, begin: int, end: int) -> Word | None:
        if segment == 0:
            return None
        return ("title", begin, end) if begin < title else ("description", begin - title - 1, end - title - 1)

    return encoded(tokenizer, [question, context], place, length)


def encoded(tokenizer: Any, segments: list[str], place: Place, length: int = LENGTH) -> list[Window]:
    """One or two segments; the last is cut into windows that overlap by an eighth."""
    found = tokenizer(
        *segments,
        truncation="only_second" if len(segments) == 2 else "only_first",
        max_length=length,
        stride=length // 8,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    windows = []
    for i, input_ids in enumerate(found["input_ids"]):
        extents: dict[tuple[int, int], list[int]] = {}
        keys = list(zip(found.sequence_ids(i), found.word_ids(i), strict=True))
        for key, (begin, end) in zip(keys, found["offset_mapping"][i], strict=True):
            extents.setdefault(key, [begin, end])[1] = end
        words = [None if None in key else place(key[0], *extents[key]) for key in keys]
        windows.append(Window(input_ids, found["token_type_ids"][i], words))
    return windows
