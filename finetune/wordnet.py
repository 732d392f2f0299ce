"""Kinds of things with their names, out of WordNet's hierarchy, as words of the synthetic corpus.

    python -m finetune.wordnet /usr/share/wordnet finetune/lexicons/kinds.jsonl       # Debian's wordnet-base

A line is a noun and what is called so: {"name": "headdress", "synonyms": ["headgear"], "gloss": "clothing for the head", "words":
["cap", "beret", …]}. Attributes named by them are many and their values follow from the name alone: read, not remembered.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.start import minilm_words

# WordNet's lexicographer files (https://wordnet.princeton.edu/documentation/lexnames5wn) of what offers speak of.
ACT, ATTRIBUTE = "04", "07"
ANIMAL, ARTIFACT, FOOD, PLANT, SHAPE, SUBSTANCE = "05", "06", "13", "20", "25", "27"
FILES = {ACT, ATTRIBUTE, ANIMAL, ARTIFACT, FOOD, PLANT, SHAPE, SUBSTANCE}
ACTS = {"sport", "game", "dance", "dancing", "exercise", "craft", "art", "gymnastics", "race"}
# With all below.
LEFT_OUT = {"drug", "medicine", "weapon", "weaponry", "explosive", "poison", "person", "body substance", "waste"}
FEWEST, MOST, BROADEST = 5, 60, 500  # words of a kind, and words below which a kind says something


@dataclass(frozen=True)
class Synset:
    file: str
    lemmas: tuple[str, ...]
    gloss: str
    pointers: tuple[tuple[str, str], ...]  # symbol, part of speech and offset


def read(path: Path) -> dict[str, Synset]:
    """A data file by part of speech and offset; its form: https://wordnet.princeton.edu/documentation/wndb5wn."""
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        fields, gloss = line.split(" | ", 1)
        offset, file, kind, n, *rest = fields.split()
        words = 2 * int(n, 16)
        lemmas = tuple(re.sub(r"\(.*\)", "", w).replace("_", " ") for w in rest[:words:2])
        pointers = rest[words + 1 : words + 1 + 4 * int(rest[words])]
        targets = tuple((pointers[i], pointers[i + 2] + pointers[i + 1]) for i in range(0, len(pointers), 4))
        plain = re.split(r"[;\"]", gloss)[0].strip()
        synsets[kind.replace("s", "a") + offset] = Synset(file, lemmas, plain, targets)
    return synsets


def senses(path: Path) -> dict[tuple[str, str], int]:
    """How usual a meaning of a word is, from 0 on, by word and offset."""
    usual = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            word, _, n, *rest = line.split()
            for rank, offset in enumerate(rest[-int(n) :]):
                usual[word.replace("_", " "), offset] = rank
    return usual


def kinds(folder: Path) -> Iterator[dict[str, object]]:
    nouns, adjectives = read(folder / "data.noun"), read(folder / "data.adj")
    usual = senses(folder / "index.noun") | senses(folder / "index.adj")
    common = {w.casefold() for w in minilm_words()}
    synsets = nouns | adjectives

    def names(key: str) -> list[str]:
        """Those that people use, in this meaning before others."""
        synset = synsets[key]
        rare = synset.file in (ARTIFACT, FOOD, SUBSTANCE)  # viscose, cheddar; a plant's are names of botany
        return [
            w
            for w in synset.lemmas
            if w.islower() and w.count(" ") < 2 and usual.get((w, key[1:])) == 0
            if (rare and w.isalpha() and len(w) < 11) or all(part in common for part in re.split("[ -]", w))
        ]

    def below(key: str, symbols: tuple[str, ...], depth: int = 4) -> Iterator[str]:
        for symbol, target in synsets[key].pointers:
            if symbol in symbols and target in synsets and LEFT_OUT.isdisjoint(synsets[target].lemmas):
                yield from names(target)
                if depth > 1:
                    yield from below(target, ("&",) if target[0] == "a" else symbols, depth - 1)

    found: dict[str, dict[str, object]] = {}
    for key, synset in nouns.items():
        called = names(key)
        if synset.file not in FILES or not called or called[0] in found or not LEFT_OUT.isdisjoint(synset.lemmas):
            continue
        if synset.file == ACT and not any(word in ACTS for name in called for word in name.split(" ")):
            continue
        words = list(dict.fromkeys(below(key, ("~",))))
        if synset.file == ATTRIBUTE:  # of a quality, what a thing can be: size, large
            words += below(key, ("=",))
        words = [w for w in dict.fromkeys(words) if w not in called]
        if FEWEST <= len(words) <= BROADEST:
            step = len(words) / min(MOST, len(words))
            kept = [words[int(i * step)] for i in range(min(MOST, len(words)))]
            found[called[0]] = {"name": called[0], "synonyms": called[1:], "gloss": synset.gloss, "words": kept}
    yield from found.values()


if __name__ == "__main__":
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        for kind in kinds(Path(sys.argv[1])):
            file.write(json.dumps(kind, ensure_ascii=False) + "\n")
