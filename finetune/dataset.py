"""From labelled offers to training examples: checked, split without near-duplicates across the border, augmented with spans kept
exact, and rendered by the extractor itself, so that an adapter learns what it will be asked."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from eval.perturb import cased, synonyms, typos, typos_in_values
from extractor.answer import write_answer
from extractor.demonstrations import contradictions
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.prompts import neutralize
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, schema_of
from finetune.conversations import IGNORED, Example, answer_labels, decided
from finetune.labelled import swapped

# Where labels list some attributes as absent, share of those in neither list that are taught as absent: on AE-110K none answers
# them all, all answers too little (LOG.md).
UNLISTED = 0.3
ALIKE = 0.85  # cosine of two titles, above which they are the same product in another colour or size


def checked(
    rows: Sequence[tuple[str, LabelledOffer]], schemas: Sequence[AttributeSchema], drop_invalid: bool = False
) -> tuple[list[LabelledOffer], list[str]]:
    """From labels with their file:line: the offers that can be learned from, and what was wrong with the values that were
    dropped. Raises InputError instead, unless `drop_invalid`: a wrong value then goes, and with it those of its attribute."""
    kept, problems = [], []
    # First what is absent, as a value that is dropped is not known to be.
    whole = complete([offer for _, offer in rows], schemas)
    for (where, _), offer in zip(rows, whole, strict=True):
        asked = schema_of(offer.category, schemas)
        wrong = dict(contradictions(offer, schemas))
        names = {a.name for a in asked.attributes} if asked else set()
        wrong |= {n: "the schema has no such attribute" for n in offer.attributes if asked and n not in names}
        problems += [f"{where}: {name}: {reason}" for name, reason in wrong.items()]
        if asked is None:
            problems.append(f"{where}: no schema for category {offer.category!r}")
            continue
        left = {name: values for name, values in offer.attributes.items() if name not in wrong}
        kept.append(offer.model_copy(update={"attributes": left}))
    if problems and not drop_invalid:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise InputError(f"labels that no extraction could give:\n  {shown}\ncorrect them, or pass --drop-invalid")
    return kept, problems


def complete(offers: Sequence[LabelledOffer], schemas: Sequence[AttributeSchema]) -> list[LabelledOffer]:
    """Where no label says that an attribute is absent, those that are not listed are."""
    if any(o.absent for o in offers):
        return list(offers)
    asked = [(o, schema_of(o.category, schemas)) for o in offers]
    return [
        o.model_copy(update={"absent": [a.name for a in s.attributes if not o.attributes.get(a.name)]}) if s else o
        for o, s in asked
    ]


def divided(
    offers: Sequence[LabelledOffer], share: float, seed: int
) -> tuple[list[LabelledOffer], list[LabelledOffer]]:
    """Offers to learn from, and about a `share` that is held out; offers with nearly the same title are on one side."""
    wanted = min(round(share * len(offers)), len(offers) - 1)  # something is left to learn from
    if wanted < 1:
        return list(offers), []
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import TfidfVectorizer

    titles = TfidfVectorizer(token_pattern=r"\w+").fit_transform([o.title for o in offers])
    _, group = connected_components(titles @ titles.T > ALIKE, directed=False)
    order = Random(seed).sample(range(max(group) + 1), max(group) + 1)
    held_out: set[int] = set()
    count = 0
    for g in order:
        size = int((group == g).sum())
        if count + size <= wanted:
            held_out.add(g)
            count += size
    sides = [[o for o, g in zip(offers, group, strict=True) if (g in held_out) == out] for out in (False, True)]
    return sides[0], sides[1]


# --- augmentation -----------------------------------------------------------------------------------------------------

Ask = tuple[LabelledOffer, AttributeSchema]


def _swapped(asked: Ask, rng: Random, labelled: Sequence[LabelledOffer]) -> Ask:
    """For values that the attribute has in the labels of other offers. Closed vocabularies and numbers stay."""
    offer, schema = asked
    texts = {a.name for a in schema.attributes if a.type == "text"}

    def other(name: str) -> str | None:
        chosen = rng.choice(labelled)
        written = "\n".join(chosen.texts().values())
        return next((v for v in chosen.attributes.get(name, ()) if name in texts and v in written), None)

    return swapped(offer, rng, other), schema


def _ordered(asked: Ask, rng: Random, labelled: Sequence[LabelledOffer]) -> Ask:
    offer, schema = asked
    return offer, schema.model_copy(update={"attributes": tuple(rng.sample(schema.attributes, len(schema.attributes)))})


def _dropped(asked: Ask, rng: Random, labelled: Sequence[LabelledOffer]) -> Ask:
    """A third of the attributes not asked for."""
    offer, schema = asked
    kept = tuple(a for a in schema.attributes if rng.random() > 0.33) or schema.attributes
    return offer, schema.model_copy(update={"attributes": kept})


def _perturbed(change: Callable[[LabelledOffer, Random], LabelledOffer]) -> "Augmentation":
    return lambda asked, rng, labelled: (change(asked[0], rng), asked[1])


Augmentation = Callable[[Ask, Random, Sequence[LabelledOffer]], Ask]
AUGMENTATIONS: dict[str, Augmentation] = {
    "swap": _swapped,
    "order": _ordered,
    "drop": _dropped,
    "case": _perturbed(lambda offer, rng: cased(offer, rng, rng.choice((str.lower, str.upper, str.title)))),
    "typos": _perturbed(lambda offer, rng: rng.choice((typos, typos_in_values))(offer, rng)),
    "synonyms": _perturbed(synonyms),
}


def augmentations(names: str) -> list[str]:
    """Names with commas. Raises InputError."""
    found = [n.strip() for n in names.split(",") if n.strip()]
    if unknown := [n for n in found if n not in AUGMENTATIONS]:
        raise InputError(f"--augment: unknown {unknown[0]!r}; there are {', '.join(AUGMENTATIONS)}")
    return found


def augmented(
    asked: Ask, rng: Random, names: Sequence[str], labelled: Sequence[LabelledOffer], share: float = 0.5
) -> Ask:
    """Each augmentation with this chance."""
    for name in names:
        if rng.random() < share:
            asked = AUGMENTATIONS[name](asked, rng, labelled)
    return asked


# --- examples ---------------------------------------------------------------------------------------------------------


def example(
    extractor: Extractor, tokenizer: Any, offer: LabelledOffer, schema: AttributeSchema, rng: Random
) -> Example:
    """The extractor's prompt and the answer of the labels; the loss is on what a model decides in it. Of attributes that
    the labels say nothing about, UNLISTED are taught as absent."""
    prompt = tokenizer.apply_chat_template(
        extractor.prompt(offer, schema), add_generation_prompt=True, return_dict=False, enable_thinking=False
    )
    values = {name: [neutralize(v) for v in found] for name, found in offer.attributes.items()}
    answer = write_answer(schema, values)
    body = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    taught = [
        span
        for attribute, span in zip(schema.attributes, decided(answer), strict=True)
        if attribute.name in offer.attributes or attribute.name in offer.absent or rng.random() < UNLISTED
    ]
    labels = answer_labels(body["input_ids"], body["offset_mapping"], taught)
    return Example(prompt + body["input_ids"], [IGNORED] * len(prompt) + labels)


def batches(
    extractor: Extractor,
    tokenizer: Any,
    offers: Sequence[LabelledOffer],
    *,
    epochs: int,
    batch: int,
    augment: Sequence[str] = (),
    paraphrases: Sequence[Extractor] = (),
    seed: int = 0,
) -> Iterator[list[Example]]:
    """`epochs` passes over the offers, each in an order of its own, the first as they are and later ones augmented; a batch
    holds examples of like length. `paraphrases` ask in other words, half of the time after the first pass."""
    rng = Random(seed)
    for epoch in range(epochs):
        order = rng.sample(list(offers), len(offers))
        asking = [*paraphrases, *[extractor] * len(paraphrases)] if epoch else []
        found = (
            _made(rng.choice(asking) if asking else extractor, tokenizer, o, rng, augment if epoch else (), offers)
            for o in order
        )
        made: list[list[Example]] = []
        while pool := sorted(islice(found, 16 * batch), key=lambda e: len(e.input_ids)):
            made += [pool[i : i + batch] for i in range(0, len(pool), batch)]
        yield from rng.sample(made, len(made))


def _made(
    extractor: Extractor,
    tokenizer: Any,
    offer: LabelledOffer,
    rng: Random,
    augment: Sequence[str],
    labelled: Sequence[LabelledOffer],
) -> Example:
    schema = extractor.schema_for(offer)
    assert schema is not None, "checked() leaves no such offer"
    kin = [o for o in labelled if o.category == offer.category] if augment else []
    return example(extractor, tokenizer, *augmented((offer, schema), rng, augment, kin), rng)
