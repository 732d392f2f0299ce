"""Conversations from offers that people labelled: real titles, with their values swapped about, asked for some of the attributes
of their category, with demonstrations and known values as a user's own labels would give them."""

from collections.abc import Iterator
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
            offers = [_swapped(rng, o, values) for o in offers]
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


def _asked(rng: Random, schema: AttributeSchema, offer: LabelledOffer) -> AttributeSchema:
    """The schema as it stands, or some of its attributes in any order, those that the offer has more often."""
    if rng.random() < 0.3:
        return schema
    asked = [a for a in schema.attributes if rng.random() < (0.8 if offer.attributes.get(a.name) else 0.5)]
    asked = rng.sample(asked, len(asked)) or list(schema.attributes[:1])
    return schema.model_copy(update={"attributes": tuple(asked)})


def _swapped(rng: Random, offer: LabelledOffer, values: dict[tuple[str | None, str], list[str]]) -> LabelledOffer:
    """The offer with some values exchanged, in its title and its labels alike, for others of the attribute or, brands, for coined
    ones. A value that does not stand in the title once, or touches another, stays."""
    title, attributes = offer.title, {name: list(vs) for name, vs in offer.attributes.items()}
    gold = [v for vs in attributes.values() for v in vs]
    for name, found in attributes.items():
        for i, value in enumerate(found):
            alone = sum(value in other or other in value for other in gold) == 1
            if rng.random() < 0.5 and alone and offer.title.count(value) == title.count(value) == 1:
                new = (
                    coined_word(rng)
                    if name == "Brand" and rng.random() < 0.7
                    else rng.choice(values[offer.category, name])
                )
                if new not in title:
                    title, found[i] = title.replace(value, new), new
    return offer.model_copy(update={"title": title, "attributes": attributes})
