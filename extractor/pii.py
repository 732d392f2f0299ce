"""E-mail addresses, phone numbers and payment cards in the text of offers, masked so that every other character keeps its place.

    mask("Velmora boots EU 42, call +49 30 1234567")  ->  "Velmora boots EU 42, call ••• •• •••••••"

Offers are full of digits, and what they say must survive: GTINs, sizes, model numbers, prices, dates. So digits are a phone
number where they follow a country code (+, 00) and libphonenumber finds that possible, where a word says so (`Tel.`, `WhatsApp`,
`电话`), or where they are written as only phone numbers are and are valid in that country: (212) 555-0123. They are a card where
issuer, length and check digit agree. A bare row of digits is neither, and ids of offers are left alone.
"""

import re
from collections.abc import Iterator
from typing import TypeVar, cast

from extractor.records import AttributeValue, Extraction, Failure, ProductOffer

MASK = "•"
LOOKED_AT = 1 << 18  # characters of a text; no offer has more, and what is beyond is masked altogether
ASKED = 10  # candidates of a text that libphonenumber is asked about; more are no offer's, and count as numbers
Row = TypeVar("Row", bound=ProductOffer | Failure | Extraction)

_GAP = r"[ \u00a0().\u2010-\u2015/-]{0,2}"
_BLANK, _WORD_ENDS = r"[ \u00a0]", r"(?![^\W\d_])"
_UNIT = r"(?:[×*]|[mcdµ][mlgv]|k[gwm]|m?ah|[kmgt]b|inch|oz|lbs?|pcs|pack|stk?|°|%|€|\$|usd|eur|元|个|件)" + _WORD_ENDS
# The size behind a number is none of its groups. No size has seven digits, and what is a unit and a word, or the mark of an
# extension, is a unit behind few digits alone: "12 in", "100 g".
_SIZE = (
    rf"(?<!\d{{7}})(?:{_BLANK}?{_UNIT}|(?:[mglvwx]|in){_WORD_ENDS})"
    rf"|(?<!\d{{4}}){_BLANK}[mglvw]{_WORD_ENDS}|(?<!\d{{3}}){_BLANK}(?:x|in){_WORD_ENDS}"
)
_END = rf"(?!\d)(?!\.\d|,\d\d?(?!\d))(?!{_SIZE})"
_NUMBER = rf"(?P<number>\+?\(?\d(?:{_GAP}\d){{6,14}}{_END})"
_BARE = re.compile(rf"\(?0\d(?:{_GAP}\d){{7,12}}|\d{{10,12}}")
_NO = r"(?:\s?(?:no|nr|num|number|nummer|n°))?"
_WORDS = (
    r"tel|telephone|telefon|téléphone|tél|teléfono|telefono|тел|телефон|call(?: us| me| now)?|anrufen|appelez|whats\s?app|viber|"
    r"hotline|sms|(?:text|call) (?:us|me) (?:at|on)"
)
_SAID = re.compile(
    rf"(?=[^\W\d_])(?:(?<![^\W\d_])(?:{_WORDS}){_NO}|[电電][话話]|手[机機][号號]?|微信[号號]?|致[电電]|联系方式)[\s.:#-]{{0,4}}{_NUMBER}",
    re.IGNORECASE,
)
_NEXT = re.compile(rf"\s?[,;/、，]\s?(?P<number>(?:\(?0\d\d(?:{_GAP}\d){{6,11}}|1[3-9]\d{{9}}){_END})", re.IGNORECASE)
# Goods have these names too, and their models numbers: "phone 6 7 8 128 256".
_NAMED = re.compile(
    rf"(?=[^\W\d_])(?<![^\W\d_])(?:phone|mobile|mobil|mob|cell|handy|fax|contact|kontakt){_NO}(\s?[.:#]\s{{0,2}}|\s{{1,2}}){_NUMBER}",
    re.IGNORECASE,
)
_ABROAD = re.compile(rf"(?:\+\(?|(?<![\d.,+-])00{_GAP})[1-9](?:{_GAP}\d){{7,14}}{_END}", re.IGNORECASE)
_WRITTEN = {
    "US": r"(?<![\w.-])(?:1[ .-])?(?:\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}|[2-9]\d\d([.-])[2-9]\d\d\1\d{4})(?![\w-])",
    "DE": r"(?<![\w.(/-])(?:\(0[1-9]\d{1,4}\) ?|0[1-9]\d{1,4} ?/ ?)\d{3,8}(?:[ -]\d{2,5}){0,3}(?![\w/])",
    "GB": r"(?<![\w.-])(?:07\d{3} (?:\d{6}|\d{3} \d{3})|\(0[12]\d{1,4}\) ?\d{3,4} ?\d{3,4}|020 [378]\d{3} \d{4})(?![\w-])",
    "FR": r"(?<![\w.-])0[1-9]([ .])\d\d(?:\1\d\d){3}(?![\w.-])",
}
_COUNTRIES = [(region, re.compile(written)) for region, written in _WRITTEN.items()]
_ENOUGH = re.compile(rf"\d(?:{_GAP}\d){{6}}")  # digits of a number
_AT, _DOT = r"(?:@|\s?[\[({]\s?at\s?[\])}]\s?)", r"(?:\.|\s?[\[({]\s?dot\s?[\])}]\s?)"
_EMAIL = re.compile(
    rf"(?<![\w.+%'-])[\w.+%'-]++{_AT}(?:[\w-]{{1,63}}{_DOT}){{1,8}}(?:[a-z]{{2,63}}(?![à-ɏ])|[^\W\d_]{{2,63}})",
    re.IGNORECASE,
)
_ISSUERS = r"4\d{3}|5[1-8]\d\d|50(?:18|20|38)|2[2-7]\d\d|6(?:011|4[4-9]\d|5\d\d|2\d\d|304|7[56]\d)|35(?:2[89]|[3-8]\d)"
_CARD = re.compile(
    rf"(?<!\d)(?:(?:{_ISSUERS})(?P<a>[ \u00a0.-]?)\d{{4}}(?P=a)\d{{4}}(?P=a)\d{{4}}|62\d{{15,17}}"
    r"|3[47]\d\d(?P<b>[ \u00a0.-]?)\d{6}(?P=b)\d{5}|3(?:0[0-5]|[689]\d)\d(?P<c>[ \u00a0.-])\d{6}(?P=c)\d{4})(?!\d)"
)
_LAST = re.compile(rf"{_GAP}\d+$")
_DIGIT, _SHOWN = re.compile(r"\d"), re.compile(r"\S+")
_WIDE = str.maketrans("＋＠（）－／．：", "+@()-/.:")


def mask(text: str) -> str:
    """As many code points, with • for each that belongs to such data; blanks stay."""
    plain = text[: LOOKED_AT + 99]  # with the rest of what begins before
    shown = list(plain)
    if not plain.isascii():  # digits of every script, and signs of full width
        plain = _DIGIT.sub(lambda digit: str(int(digit[0])), plain).translate(_WIDE)
    for begin, end in _found(plain):
        shown[begin:end] = _hidden(text[begin:end])
    return "".join(shown[:LOOKED_AT]) + _hidden(text[LOOKED_AT:])


def _hidden(text: str) -> str:
    return _SHOWN.sub(lambda found: MASK * len(found[0]), text)


def masked(row: Row) -> Row:
    """An offer, or the failure or record of one, with its texts and its category masked."""
    texts = {field: text for field in ("title", "description", "category") if (text := getattr(row, field))}
    changed = {field: shown for field, text in texts.items() if (shown := mask(text)) != text}
    return cast(Row, row.model_copy(update=changed)) if changed else row


def masked_record(record: Extraction) -> Extraction:
    """The same, and its values: one that is masked where it stands is what stands there now."""
    shown = masked(record)
    found = {name: [_masked_value(v, record, shown) for v in values] for name, values in record.attributes.items()}
    return shown.model_copy(update={"attributes": found})


def _masked_value(value: AttributeValue, before: Extraction, after: Extraction) -> AttributeValue:
    if place := value.evidence:
        old, new = ((getattr(r, place.field) or "")[place.begin : place.end] for r in (before, after))
        if old != new:
            return value.model_copy(update={"value": new, "normalized_value": None})
    normalized = value.normalized_value and mask(value.normalized_value)
    return value.model_copy(update={"value": mask(value.value), "normalized_value": normalized})


def _found(text: str) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text) if "@" in text or "at" in text.lower() else ():
        yield match.span()
    if not _ENOUGH.search(text):
        return
    for match in _CARD.finditer(text):
        if _luhn(match[0]):
            yield match.span()
    asked = 0
    for match in _ABROAD.finditer(text):
        if match[0].isdigit():  # a row of digits that begins with 00
            continue
        asked += 1
        if number := _abroad(match[0]) if asked <= ASKED else match[0]:
            yield match.start(), match.start() + len(number)
    for said in _SAID.finditer(text):
        phone: re.Match[str] | None = said
        while phone:
            yield phone.span("number")
            phone = _NEXT.match(text, phone.end())
    for match in _NAMED.finditer(text):
        if match[1].strip() or _BARE.fullmatch(match["number"]):
            yield match.span("number")
    for region, written in _COUNTRIES:
        for match in written.finditer(text):
            pairs = re.findall(r"\d\d", match[0])
            # A row of sizes rises: 02 04 06 08 10.
            if region == "FR" and pairs == sorted(pairs):
                continue
            asked += 1
            if asked > ASKED or _is_phone(match[0], region):
                yield match.span()


def _abroad(number: str) -> str:
    """As much of it as is a number, for its last groups may be something else; nothing where it is none."""
    for _ in range(4):
        if _ENOUGH.search(number) and _is_phone(f"+{number.lstrip('+0')}", None, possible=number[0] == "+"):
            return number
        number = _LAST.sub("", number)
    return ""


def _is_phone(number: str, region: str | None, possible: bool = False) -> bool:
    from phonenumbers import NumberParseException, is_possible_number, is_valid_number, parse

    try:
        parsed = parse(number, region)
    except NumberParseException:
        return False
    return is_possible_number(parsed) if possible else is_valid_number(parsed)


def _luhn(card: str) -> bool:
    digits = [int(digit) for digit in reversed(card) if digit.isdigit()]
    return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10
