"""What is served: an engine, schemas, templates, adapters, and within which limits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from extractor.adapters import Registry
from extractor.config import Settings, make_extractor
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.feedback import Store
from extractor.journal import Journal
from extractor.keys import Keys
from extractor.prompts import Template, list_templates, load_template
from extractor.quality import queue
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key, schema_of
from extractor.service.auth import Access
from extractor.service.batching import Batcher
from extractor.service.jobs import KIND, PART, Jobs
from extractor.service.metrics import Metrics
from extractor.service.observe import log
from extractor.service.reports import STATES
from extractor.service.uploads import Bounds, Uploads
from extractor.workshop import Opened

Prompting = Callable[[str | None], Extractor]


@dataclass(frozen=True)
class Limits:
    """`batch` and `queue` are in offers; `body`, `upload` (a file) and `pending` (a key's files that no job has taken, at most
    `uploads`) in bytes; `watching` in clients that follow jobs; the others in seconds; `rate` is in requests a second and key."""

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
    watching: int = 200


class Service:
    """`opened` starts the engine; `prompting` makes an extractor that only writes prompts, with a template or, for None, as the
    service asks: by `asking`, its settings and demonstrations, which also say whether offers are masked before anything is done
    with them. `store` keeps what people decide, and the service's journal; the files of jobs are in `folder`. `keys` None: no
    access control."""

    def __init__(
        self,
        opened: Opened,
        schemas: Sequence[AttributeSchema],
        prompting: Prompting,
        store: Store,
        folder: Path,
        keys: Keys | None,
        limits: Limits,
        asking: tuple[Settings, Sequence[LabelledOffer]],
        registry: Registry | None = None,
    ) -> None:
        self.mask_pii = asking[0].mask_pii
        self.schemas, self.limits, self.registry = schemas, limits, registry
        self.store, self.journal, self.folder = store, Journal(store.database), folder
        self.access = Access(keys, limits.rate)
        self.metrics = Metrics(schemas)
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
        )
        self.metrics.count(lambda: dict.fromkeys(STATES, 0) | self.journal.tally(KIND))
        self.watched = 0  # clients that follow jobs
        self._by_category = {category_key(s.category): s for s in schemas}
        self._prompting = lru_cache(maxsize=32)(prompting)

    def schema(self, category: str) -> AttributeSchema | None:
        return self._by_category.get(category_key(category))

    def asked(self, category: str) -> AttributeSchema | None:
        """The schema by which offers of a category are extracted: where only one is served, it is that of all."""
        return self.schema(category) or schema_of(category, self.schemas)

    def templates(self) -> list[Template]:
        return [load_template(reference) for reference in list_templates()]

    def prompter(self, template: str | None) -> Extractor:
        return self._prompting(template)

    def _waiting(self) -> Iterator[tuple[AttributeSchema | None, int]]:
        """By schema, values that wait for review."""
        yield from ((schema, 0) for schema in self.schemas)
        for category, _, waiting in queue(self.store):
            yield self.asked(category), waiting


def prompter(
    settings: Settings, schemas: Sequence[AttributeSchema], labelled: Sequence[LabelledOffer], template: str | None
) -> Extractor:
    """An extractor that only writes prompts: as the service asks or, without adapters, with a listed template. Raises InputError
    for a template that is not listed, as a path is none."""
    changes: dict[str, object] = {"calibration": "none"}
    if template is not None:
        listed = list_templates()
        if template not in (*listed, *(reference.partition("@")[0] for reference in listed)):
            raise InputError(f"no template {template!r}; there are {', '.join(listed)}")
        changes |= {"template": template, "adapter": None, "adapters": None}
    return make_extractor(ScriptedEngine(), settings.model_copy(update=changes), schemas, labelled)
