"""Adapters of the registry."""

from typing import Any

from pydantic import Field

from extractor.adapters import Adapter
from extractor.service.api.common import Served, router
from extractor.service.models import Body

reviewing = router("review")


class AdapterSummary(Body):
    reference: str
    categories: list[str] = Field(description="That it was trained for.")
    serves: list[str]
    base: str
    labels: int
    scores: dict[str, Any]
    created: str


@reviewing.get("/adapters")
def adapters(service: Served) -> list[AdapterSummary]:
    """The adapters of the registry, and what they serve."""
    if (registry := service.promotions.registry) is None:
        return []
    serving = registry.serving()
    found = [_summary(a, [c for c, r in serving.items() if r == a.reference]) for a in registry.adapters()]
    return [summary for summary in found if summary]


def _summary(adapter: Adapter, serves: list[str]) -> AdapterSummary | None:
    if (card := adapter.card) is None:
        return None
    return AdapterSummary(
        reference=adapter.reference,
        categories=list(card.schemas),
        serves=serves,
        base=card.base,
        labels=card.labels,
        scores=card.scores,
        created=card.created,
    )
