"""Several adapters as one that serves all their categories.

    shelfwise finetune merge adapters/shoes/1 adapters/tea/2 --out adapters/both --data held_out.jsonl

Their updates are added (PEFT's `cat`: exactly the sum, its rank the sum of ranks), so that each also moves what the others
answer: `cost` says by how much. Of adapters that learned the same labels from several seeds, the mean is taken instead.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from eval.baselines.training import extraction_f1
from extractor.adapters import LABELS, Adapter, Card, next_version
from extractor.config import Settings, make_extractor, template_of
from extractor.engines import create_engine
from extractor.engines.huggingface import load, with_adapters
from extractor.errors import InputError
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key
from finetune.lora import saved

ADDS_UP = ("lora", "rslora")


def merge(adapters: Sequence[Adapter], settings: Settings, out: Path, weight: float | None = None) -> tuple[Path, Card]:
    """Write the next version in `out`; every update counts `weight` times, by default once or, of seeds of one adapter, its share
    of the mean. Raises InputError for adapters that do not go together: asked in another way, two for one category;
    AdapterError for those of other base weights."""
    cards = _together(adapters)
    seeds = len({card.labels_sha256 for card in cards}) == 1
    weight = weight or (1 / len(cards) if seeds else 1.0)
    model, tokenizer = load(settings.model or "base", "cpu")
    holder = with_adapters(model, adapters)
    names = [adapter.reference for adapter in adapters]
    holder.add_weighted_adapter(names, [weight] * len(names), adapter_name="default", combination_type="cat")
    holder.set_adapter("default")
    for name in names:
        holder.delete_adapter(name)
    learned = adapters[:1] if seeds else adapters
    labels = "".join((adapter.folder / LABELS).read_text(encoding="utf-8") for adapter in learned)
    card = cards[0].model_copy(
        update={
            "name": out.name,
            "version": next_version(out),
            "schemas": {category: schema for card in cards for category, schema in card.schemas.items()},
            "labels": sum(adapter.card.labels for adapter in learned if adapter.card),
            "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
            "recipe": {"method": "lora", "merged": [a.reference for a in adapters], "weight": weight},
            "scores": {},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    template = template_of(adapters[0].folder, cards[0]).source
    return saved(holder, tokenizer, card, labels, template, out), card


def _together(adapters: Sequence[Adapter]) -> list[Card]:
    if len({adapter.reference for adapter in adapters}) < max(2, len(adapters)):
        raise InputError("a merger takes two adapters or more, each once")
    cards = list[Card]()
    served: dict[str, Card] = {}
    for adapter in adapters:
        card = adapter.card
        if card is None or card.recipe["method"] not in ADDS_UP:
            raise InputError(
                f"{adapter.folder}: no adapter of `finetune lora` whose updates add up ({', '.join(ADDS_UP)})"
            )
        first = cards[0] if cards else card
        if (card.template_sha256, card.k, card.known) != (first.template_sha256, first.k, first.known):
            raise InputError(
                f"{adapter.folder}: is asked in another way than {adapters[0].folder} (template, k, known)"
            )
        for category in card.schemas:
            other = served.setdefault(category_key(category), card)
            if other.labels_sha256 != card.labels_sha256:
                raise InputError(
                    f"{adapter.folder}: {category!r} is served by {other.name}@{other.version} already; train them as one"
                )
        cards.append(card)
    return cards


def cost(
    adapters: Sequence[Adapter],
    merged: Path,
    offers: Sequence[LabelledOffer],
    schemas: Sequence[AttributeSchema],
    settings: Settings,
) -> Iterator[tuple[str, int, float, float]]:
    """For each adapter: its name, the number of offers of its categories, F1 on them by itself and by the merger."""

    def score(folder: Path, own: Sequence[LabelledOffer]) -> float:
        chosen = settings.model_copy(update={"adapter": folder})
        extractor = make_extractor(create_engine(chosen.engine, **chosen.engine_options()), chosen, schemas)
        return extraction_f1(own, extractor.extract(own), schemas)

    for adapter in adapters:
        served = {category_key(c) for c in (adapter.card.schemas if adapter.card else ())}
        if own := [offer for offer in offers if category_key(offer.category) in served]:
            yield adapter.reference, len(own), score(adapter.folder, own), score(merged, own)
