"""Changes to the text of a labelled offer under which gold stays exact: a gold value that is a span of the text before is one
after, rewritten where the text under it was. Values that stand nowhere in the text stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eval.baselines.spans import Span, occurrences
from extractor.records import LabelledOffer

Extent = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """`field` from `begin` to `end` (code points, `end` exclusive) becomes `text`; where both are equal, it is inserted."""

    field: str
    begin: int
    end: int
    text: str

    def outside(self, span: Span) -> bool:
        return self.field != span.field or self.end <= span.begin or span.end <= self.begin

    def inside(self, span: Span) -> bool:
        return not self.outside(span) and span.begin <= self.begin and self.end <= span.end


def is_han(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff"


def places(offer: LabelledOffer) -> dict[str, list[Span]]:
    """Every place of each gold value in title and description: as a whole word, or anywhere if it is a whole word nowhere.
    Values that stand nowhere are left out; places of several values may overlap."""
    found: dict[str, list[Span]] = {}
    texts = offer.texts().items()
    for name, values in offer.attributes.items():
        for value in values:
            for search in (occurrences, _anywhere):
                if spans := [
                    Span(name, field, *place) for field, text in texts for place in search(value.strip(), text)
                ]:
                    found[value] = spans
                    break
    return found


def _anywhere(value: str, text: str) -> list[Extent]:
    begins = [i for i in range(len(text)) if text.startswith(value, i)] if value else []
    return [(begin, begin + len(value)) for begin in begins]


def edited(offer: LabelledOffer, edits: Iterable[Edit]) -> LabelledOffer:
    """The offer with these edits, which must not overlap one another, and with gold as it then stands in the text.

    Edits are left out that cross the border of a gold value, or would write one place of a value unlike another.
    """
    gold = places(offer)
    spans = [span for found in gold.values() for span in found]
    kept = [e for e in sorted(edits, key=lambda e: (e.begin, e.end)) if all(e.outside(s) or e.inside(s) for s in spans)]
    while True:
        written = {value: {_written(offer, kept, span) for span in found} for value, found in gold.items()}
        unequal = [
            s for value, texts in written.items() if len(texts) > 1 or not min(texts).strip() for s in gold[value]
        ]
        if not unequal:
            break
        kept = [e for e in kept if not any(e.inside(s) for s in unequal)]
    renamed = {value: min(texts) for value, texts in written.items() if min(texts) != value.strip()}
    texts = {
        field: _rewritten(text, 0, len(text), [e for e in kept if e.field == field])
        for field, text in offer.texts().items()
    }
    attributes = {n: list(dict.fromkeys(renamed.get(v, v) for v in values)) for n, values in offer.attributes.items()}
    return offer.model_copy(update=texts | {"attributes": attributes})


def _written(offer: LabelledOffer, edits: Sequence[Edit], span: Span) -> str:
    return _rewritten(offer.texts()[span.field], span.begin, span.end, [e for e in edits if e.inside(span)])


def _rewritten(text: str, begin: int, end: int, edits: Sequence[Edit]) -> str:
    parts = []
    for edit in edits:
        parts += [text[begin : edit.begin], edit.text]
        begin = edit.end
    return "".join([*parts, text[begin:end]])


# --- where to edit ----------------------------------------------------------------------------------------------------


def gold_blocks(offer: LabelledOffer, field: str) -> list[Extent]:
    """The text under gold values, in order: overlapping places make one block, and no block ends inside a word."""
    text = offer.texts().get(field, "")
    extents = [(s.begin, s.end) for spans in places(offer).values() for s in spans if s.field == field]
    return merged(widened(text, extent, str.isalnum) for extent in extents)


def widened(text: str, extent: Extent, belongs: Callable[[str], bool]) -> Extent:
    """The extent with the neighbouring characters that belong to it; Han characters never do."""
    begin, end = extent
    while begin and belongs(text[begin - 1]) and not is_han(text[begin - 1]):
        begin -= 1
    while end < len(text) and belongs(text[end]) and not is_han(text[end]):
        end += 1
    return begin, end


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """In order, and those that share a character made one."""
    out: list[Extent] = []
    for begin, end in sorted(extents):
        if out and begin < out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((begin, end))
    return out


def free(blocks: Sequence[Extent], begin: int, end: int) -> bool:
    """Whether a piece of text shares nothing with gold."""
    return all(end <= b or e <= begin for b, e in blocks)


def pieces(offer: LabelledOffer) -> Iterator[tuple[str, int, int]]:
    """The texts cut at each border of a gold value: field, begin and end, without gaps."""
    spans = [span for found in places(offer).values() for span in found]
    for field, text in offer.texts().items():
        cuts = {0, len(text)} | {cut for s in spans if s.field == field for cut in (s.begin, s.end)}
        yield from ((field, begin, end) for begin, end in pairwise(sorted(cuts)))


def gaps(text: str, blocks: Sequence[Extent]) -> list[int]:
    """Where words can be put in: before a word or at the end, and between Han characters and gold; never inside gold."""
    words = [i for i in range(1, len(text)) if text[i - 1].isspace() and not text[i].isspace()]
    borders = [i for b, e in blocks for i in (b, e) if 0 < i < len(text) and is_han(text[i - 1]) and is_han(text[i])]
    return sorted({0, len(text), *(i for i in (*words, *borders) if all(i <= b or e <= i for b, e in blocks))})
