"""Conversations from offers that people labelled: real titles, with their values swapped about, asked for some of the attributes
of their category, with demonstrations and known values as a user's own labels would give them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from extractor.demonstrations import DemonstrationPool
from extractor.prompts import Message, load_template
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema
from extractor.vocabulary import Vocabulary
from finetune.conversations import conversation
from finetune.corpus import Episode
from finetune.lexicon import coined_word


def labelled_conversations(folder: Path, seed: int) -> Iterator[list[Message]]:
    """Conversations without end from the training split of a folder of labelled offers. The same seed gives the same ones."""
    from eval.datasets import load_dataset

    rng, template = Random(seed), load_template("extract")
    training = load_dataset(folder, "train")
    vocabulary = Vocabulary(labelled=training.offers)
    pool = DemonstrationPool(training.offers)
    values = {
        (o.category, name): sorted(
            {v for p in training.offers if p.category == o.category for v in p.attributes.get(name, ())}
        )
        for o in training.offers
        for name in o.attributes
    }
    while True:
        offer = rng.choice(training.offers)
        whole = next(s for s in training.schemas if s.category == offer.category)
        pool.k = rng.choice((0, 0, 0, 1, 2, 3, 5, 8))
        pool.order = rng.choice(("first", "last"))
        offers = [*pool.choose(offer, whole), offer]
        schema = _asked(rng, whole, offer)
        if rng.random() < 0.6:
            offers = [swapped(o, rng, partial(_drawn, rng, values, o.category)) for o in offers]
        shown = rng.choice((0.0, 0.0, 0.6, 1.0))  # of the known values
        known = {
            o.id: {
                n: kept
                for n, vs in vocabulary.known(schema, o).items()
                if (kept := [v for v in vs if rng.random() < shown])
            }
            for o in offers
        }
        yield conversation(Episode(schema, offers, "en", known), template)


def _drawn(rng: Random, values: dict[tuple[str | None, str], list[str]], category: str | None, name: str) -> str:
    """Another value of the attribute or, of a brand, mostly a coined one."""
    return coined_word(rng) if name == "Brand" and rng.random() < 0.7 else rng.choice(values[category, name])


def _asked(rng: Random, schema: AttributeSchema, offer: LabelledOffer) -> AttributeSchema:
    """The schema as it stands, or some of its attributes in any order, those that the offer has more often."""
    if rng.random() < 0.3:
        return schema
    asked = [a for a in schema.attributes if rng.random() < (0.8 if offer.attributes.get(a.name) else 0.5)]
    asked = rng.sample(asked, len(asked)) or list(schema.attributes[:1])
    return schema.model_copy(update={"attributes": tuple(asked)})


def swapped(offer: LabelledOffer, rng: Random, new_value: Callable[[str], str | None]) -> LabelledOffer:
    """The offer with half of its values exchanged, in its text and its labels alike, for what `new_value` gives for their
    attribute. A value that does not stand in the text exactly once, or touches another, stays."""
    texts, attributes = offer.texts(), {name: list(values) for name, values in offer.attributes.items()}
    gold = [value for values in attributes.values() for value in values]
    for name, found in attributes.items():
        for i, value in enumerate(found):
            alone = sum(value in other or other in value for other in gold) == 1
            once = sum(text.count(value) for text in texts.values()) == 1
            if not alone or not once or rng.random() < 0.5:
                continue
            new = new_value(name)
            if new and not any(new in text for text in texts.values()):
                texts = {field: text.replace(value, new) for field, text in texts.items()}
                found[i] = new
    return offer.model_copy(update={**texts, "attributes": attributes})
