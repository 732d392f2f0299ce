"""What is served: an engine, schemas, templates, adapters, and within which limits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from extractor.adapters import Registry
from extractor.config import Settings, make_extractor
from extractor.definitions import Definitions, readable
from extractor.engines.scripted import ScriptedEngine
from extractor.extract import Extractor, OwnOffer, unknown_category
from extractor.feedback import Store
from extractor.journal import Journal
from extractor.keys import Keys
from extractor.prompts import Template
from extractor.quality import queue
from extractor.records import Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema, category_key
from extractor.service.auth import Access
from extractor.service.batching import Batcher
from extractor.service.current import CurrentSchemas
from extractor.service.jobs import KIND, PART, Asks, Jobs
from extractor.service.metrics import Metrics
from extractor.service.observe import log
from extractor.service.promotions import Promotions
from extractor.service.reports import STATES
from extractor.service.training import Training
from extractor.service.uploads import Bounds, Uploads
from extractor.workshop import Opened

Prompting = Callable[[Template | None], Extractor]


@dataclass(frozen=True)
class Limits:
    """`batch` and `queue` are in offers; `body`, `upload` (a file) and `pending` (a key's files that no job has taken, at most
    `uploads`) in bytes; `jobs` are a key's that are not finished; `watching` in clients that follow jobs; the others in seconds;
    `rate` is in requests a second and key."""

    batch: int = 256
    window: float = 0.01
    queue: int = 4096
    rate: float | None = None
    timeout: float = 60.0
    body: int = 8 << 20
    reading: float = 15.0
    patience: float = 5.0
    upload: int = 200 << 20
    uploads: int = 20
    pending: int = 1 << 30
    jobs: int = 100
    watching: int = 200


class Service:
    """`opened` starts the engine; `prompting` makes an extractor that only writes prompts, with a template or, for None, as the
    service asks: by `asking`, its settings, demonstrations and template (None: of the settings); the settings also say whether
    offers are masked before anything is done with them. `store` keeps what people decide, and the service's journal; the files of
    jobs are in `folder`. `keys` None: no access control."""

    def __init__(
        self,
        opened: Opened,
        schemas: Sequence[AttributeSchema],
        prompting: Prompting,
        store: Store,
        folder: Path,
        keys: Keys | None,
        limits: Limits,
        asking: Asks,
        registry: Registry | None = None,
    ) -> None:
        self.mask_pii = asking[0].mask_pii
        self.limits = limits
        self.store, self.journal, self.folder = store, Journal(store.database), folder
        self.access = Access(keys, limits.rate)
        self.metrics = Metrics(schemas)
        self.definitions = Definitions(store.database)
        self.current = CurrentSchemas(schemas, self.definitions, self.metrics.follow)
        self.batcher = Batcher(
            opened,
            most=limits.batch,
            window=limits.window,
            bound=limits.queue,
            patience=limits.patience,
            seen=self.metrics.seen,
            say=log.warning,
            spend=lambda reason: self.metrics.repeated.inc(),
        )
        self.metrics.watch(self.batcher)
        self.metrics.watch_queue(self._waiting)
        bounds = Bounds(limits.upload, limits.pending, limits.uploads, limits.reading)
        self.uploads = Uploads(self.journal, folder / "jobs", bounds)
        self.jobs = Jobs(
            self.uploads,
            store,
            self.batcher,
            asking,
            opened,
            prompter=lambda: self.prompter(None),
            counted=self.metrics.job_rows.inc,
            part=max(1, min(PART, limits.queue // 8)),
            unfinished=limits.jobs,
        )
        self._prompting = lru_cache(maxsize=32)(prompting)
        self.training = Training(self.journal, store, folder / "jobs", registry.root if registry else None, asking)
        self.promotions = Promotions(registry, self.journal, self.batcher, self._prompting.cache_clear)
        self.metrics.count(lambda: dict.fromkeys(STATES, 0) | self.journal.tally(KIND))
        self.watched = 0  # clients that follow jobs

    @property
    def registry(self) -> Registry | None:
        """As it was when the engine was started last."""
        return self.promotions.registry

    @property
    def schemas(self) -> list[AttributeSchema]:
        """The newest of each category."""
        return [defined.schema for defined in self.current.all()]

    def schema(self, category: str | None) -> AttributeSchema | None:
        """The newest of a category."""
        defined = self.current.of(category)
        return defined.schema if defined else None

    def asked(self, category: str | None) -> AttributeSchema | None:
        """The newest by which offers of a category are extracted."""
        return self.current.serving(category)

    def own(self, offer: ProductOffer | Failure) -> ProductOffer | Failure:
        """The offer with the schema that serves its category now, which the engine may not have been started with."""
        if isinstance(offer, Failure | OwnOffer):
            return offer
        if (schema := self.asked(offer.category)) is None:
            return unknown_category(offer, self.schemas)
        return OwnOffer.model_construct(**vars(offer), asked_by=schema)

    def prompter(self, template: str | None) -> Extractor:
        """An extractor that only writes prompts: as the service asks, or with a template of a file or the store. Raises
        InputError."""
        return self._prompting(None if template is None else self.definitions.template(template))

    def adapter_left(self, schema: AttributeSchema) -> str | None:
        """The adapter that serves the category and not this schema, for it was trained for another; prompting answers then."""
        if self.registry:
            for category, adapter in self.registry.promoted().items():
                trained = adapter.card.schemas[category] if adapter.card else None
                if category_key(category) == category_key(schema.category) and trained != schema.reference:
                    return adapter.reference
        return None

    def _waiting(self) -> Iterator[tuple[AttributeSchema | None, int]]:
        """By schema, values that wait for review."""
        yield from ((schema, 0) for schema in self.schemas)
        for category, _, waiting in queue(self.store):
            yield self.asked(category), waiting


def trained_schemas(
    files: Sequence[AttributeSchema], definitions: Definitions, registry: Registry | None
) -> list[AttributeSchema]:
    """What the engine starts with: the schemas of the files but, where an adapter was promoted for a category, the version that
    it was trained for, and answers alone."""
    chosen = {category_key(s.category): s for s in files}
    for category, adapter in (registry.promoted() if registry else {}).items():
        key, trained = category_key(category), adapter.card.schemas[category] if adapter.card else None
        if key not in chosen or chosen[key].reference != trained:
            for schema, _ in readable(definitions.versions("schema", key)):
                if schema.reference == trained:
                    chosen[key] = schema
    return list(chosen.values())


def prompter(
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    labelled: Sequence[LabelledOffer],
    template: Template | None,
    *,
    own: Template | None = None,
) -> Extractor:
    """An extractor that only writes prompts: as the service asks (by its `own` template, where one stands in for that of the
    settings) or, without adapters, with another template."""
    changes: dict[str, object] = {"calibration": "none"}
    if template is not None:
        changes |= {"adapter": None, "adapters": None}
    return make_extractor(ScriptedEngine(), settings.model_copy(update=changes), schemas, labelled, template or own)
