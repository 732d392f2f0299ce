"""The words of the synthetic corpus, and how a value is drawn from them. Patterns are explained in lexicons/shared.yaml."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

LEXICONS = Path(__file__).parent / "lexicons"
Pattern = Callable[[Random], str]


@dataclass(frozen=True)
class Category:
    name: str
    names: tuple[str, ...]
    products: tuple[str, ...]
    noise: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]]
    language: str

    @cached_property
    def words(self) -> frozenset[str]:
        """All that offers of the category say of it, patterns left out."""
        said = [v for values in (*self.attributes.values(), self.products, self.noise) for v in values]
        return frozenset(v.casefold() for v in said if "{" not in v)


@dataclass(frozen=True)
class Kind:
    """What is called by a noun, out of WordNet (wordnet.py): attributes that no category has."""

    name: str
    synonyms: tuple[str, ...]
    gloss: str
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)  # hashed by identity: what is derived from it is cached
class Lexicon:
    shared: dict[str, Any]
    categories: tuple[Category, ...]
    general: dict[str, tuple[str, ...]]  # attributes that offers of any category may have
    kinds: tuple[Kind, ...]

    @cached_property
    def closed_words(self) -> frozenset[str]:
        """How sellers write the answers of shared enums and booleans."""
        tables = (*self.shared["enums"].values(), *self.shared["booleans"].values())
        return frozenset(w.casefold() for groups in tables for words in groups.values() for w in words)


@lru_cache(maxsize=1)
def load_lexicon(folder: Path = LEXICONS) -> Lexicon:
    """Read `shared.yaml` and every `categories_*.yaml`, in which `$name` in a value list is replaced by that shared list, and
    `kinds.jsonl`."""
    shared = yaml.safe_load((folder / "shared.yaml").read_text(encoding="utf-8"))
    lists = {name: [str(v) for v in values] for name, values in shared["lists"].items()}
    lists["brand"] = ["{BRAND}"]

    def spliced(values: list[Any]) -> tuple[str, ...]:
        out: list[str] = []
        for value in map(str, values):
            out += lists[value[1:]] if value.startswith("$") else [value]
        return tuple(out)

    categories = []
    for path in sorted(folder.glob("categories_*.yaml")):
        language = "zh" if path.stem.endswith("_zh") else "en"
        for row in yaml.safe_load(path.read_text(encoding="utf-8")):
            attributes = {str(k): spliced(v) for k, v in row["attributes"].items()}
            texts = {key: tuple(map(str, row[key])) for key in ("names", "products", "noise")}
            categories.append(Category(row["category"], attributes=attributes, language=language, **texts))
    rows = map(json.loads, (folder / "kinds.jsonl").read_text(encoding="utf-8").splitlines())
    kinds = tuple(Kind(r["name"], tuple(r["synonyms"]), r["gloss"], tuple(r["words"])) for r in rows)
    general = {name: spliced(values) for name, values in shared["general"].items()}
    return Lexicon(shared, tuple(categories), general, kinds)


_SLOT = re.compile(r"\{([^{}]+)\}")


@lru_cache(maxsize=1)
def _syllables() -> tuple[list[str], ...]:
    table = load_lexicon().shared["syllables"]
    return tuple(table[part].split() for part in ("onsets", "vowels", "codas"))


def coined_word(rng: Random) -> str:
    """A pronounceable word that no lexicon holds, in one of the ways brands are written."""
    if rng.random() < 0.12:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 7)))
    onsets, vowels, codas = _syllables()
    word = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((1, 2, 2, 2, 3))))
    if rng.random() < 0.88:
        word += rng.choice(codas)
    style = rng.random()
    return word.capitalize() if style < 0.75 else word.upper() if style < 0.92 else word


@lru_cache(maxsize=100_000)
def _pattern(text: str) -> tuple[str | Pattern, ...]:
    """Compile a value pattern (see shared.yaml) into literal and drawn parts."""
    parts: list[str | Pattern] = []
    for i, piece in enumerate(_SLOT.split(text)):
        if i % 2 == 0:
            if piece:
                parts.append(piece)
        else:
            parts.append(_slot(piece))
    return tuple(parts)


def _slot(body: str) -> Pattern:
    shared = load_lexicon().shared if body in ("N", "H", "BRAND") else {}
    match body:
        case "A":
            return lambda rng: rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        case "9":
            return lambda rng: rng.choice("0123456789")
        case "W":
            return coined_word
        case "N":
            return lambda rng: rng.choice(shared["nouns"])
        case "H":
            return lambda rng: rng.choice(shared["zh_characters"])
        case "BRAND":
            return lambda rng: _brand(rng, shared)
    if number := re.fullmatch(r"(-?\d+)-(-?\d+)(?:/(\d+))?", body):
        low, high, step = int(number[1]), int(number[2]), int(number[3] or 1)
        return lambda rng: str(low + step * int(rng.random() * ((high - low) // step + 1)))
    choices = body.split("|")
    return lambda rng: rng.choice(choices)


def _brand(rng: Random, shared: dict[str, Any]) -> str:
    kind = rng.random()
    if kind < 0.45:
        brand = coined_word(rng)
        if rng.random() < 0.12:
            brand += " " + coined_word(rng)
    elif kind < 0.6:
        brand = f"{rng.choice(shared['adjectives'])} {rng.choice(shared['nouns'])}"
    elif kind < 0.7:
        brand = rng.choice(shared["nouns"]) + rng.choice((" ", "", "", " ")) + rng.choice(shared["nouns"])
    elif kind < 0.8:
        brand = f"{rng.choice(shared['first_names'])} {coined_word(rng).capitalize()}"
    elif kind < 0.85:
        brand = coined_word(rng).capitalize() + "'s"
    elif kind < 0.9:
        brand = f"{coined_word(rng).capitalize()} {rng.choice(('&', 'and', '+'))} {coined_word(rng).capitalize()}"
    else:
        brand = rng.choice(shared["nouns"])
    if rng.random() < 0.12:
        brand += " " + rng.choice(shared["brand_suffixes"])
    return brand.upper() if rng.random() < 0.08 else brand


def draw(rng: Random, values: Sequence[str]) -> str:
    parts = _pattern(values[int(rng.random() * len(values))])
    return "".join(p if isinstance(p, str) else p(rng) for p in parts)


def named(lexicon: Lexicon, source: str, key: str, default: list[str]) -> list[str]:
    table = lexicon.shared[key]
    for name in (source, source.split(" ")[0].capitalize(), source.split(" ")[-1].capitalize()):
        if name in table:
            return list(table[name])
    return list(table.get("default", default))
