"""Settings of a run, from the command line, `SHELFWISE_*` variables and `shelfwise.toml`, in this order of precedence.

Read at the edges only: the library takes plain arguments.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from extractor.adapters import LABELS, TEMPLATE, Adapter, Card, Registry, open_adapter
from extractor.confidence import FILE, Calibration, load_calibration
from extractor.constraints import Grounding
from extractor.demonstrations import Choice, DemonstrationPool, Order
from extractor.engines import Engine, create_engine
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import AdapterError, InputError
from extractor.extract import Asking, Extractor
from extractor.io import read_labelled
from extractor.pii import masked
from extractor.prompts import PROMPTS, Template, compile_template, load_template
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key, load_schemas
from extractor.vocabulary import Vocabulary

FILES = ("model", "adapter", "adapters", "template", "calibration")  # settings that may be paths
LOCAL = ("vllm", "huggingface")  # engines that load a model into this process


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHELFWISE_", toml_file="shelfwise.toml", extra="forbid")

    engine: Literal["vllm", "server", "huggingface", "scripted"] = "vllm"
    model: str | None = None
    adapter: Path | None = None
    adapters: Path | None = None
    base_url: str = "http://127.0.0.1:8000/v1"
    api_key: str | None = None
    concurrency: int = Field(default=64, ge=1)
    template: str = "extract"
    grounding: Grounding = "strict"
    k: int = Field(default=5, ge=0)
    choice: Choice = "similar"
    order: Order = "last"
    known: bool = True
    truncate: bool = False
    mask_pii: bool = False
    calibration: str | None = None
    chunk: int = Field(default=512, ge=1)
    price: str | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def engine_options(self) -> dict[str, Any]:
        """What the chosen engine's constructor takes."""
        match self.engine:
            case "server":
                return {
                    "base_url": self.base_url,
                    "model": self.model,
                    "api_key": self.api_key,
                    "concurrency": self.concurrency,
                    "adapters": adapters_of(self),
                }
            case "scripted":
                return {}
        return {"model": self.model or "base", "adapters": adapters_of(self)}


def load_settings(**given: Any) -> Settings:
    """Settings with what the caller gave (None: not given). Raises InputError that names the setting."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"setting {name}: {problem['msg']} (command line, SHELFWISE_{name.upper()} or shelfwise.toml)"
        ) from error


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The settings among a command's options."""
    return load_settings(**{name: options.get(name) for name in Settings.model_fields})


def kept(settings: Settings) -> dict[str, Any]:
    """All of them, for `resume` may run under other variables; and where things are, from whatever folder. No secrets."""
    given = settings.model_dump(mode="json", exclude={"api_key"}, exclude_none=True)
    paths = {n: Path(given[n]) for n in FILES if n in given and given[n] != "base"}
    return given | {n: str(p.resolve()) for n, p in paths.items() if p.exists() and (n != "template" or p.suffix)}


def same_masking(masks: bool) -> None:
    """Raises InputError where masking is asked for today, and a job that goes on does not mask."""
    if load_settings().mask_pii and not masks:
        raise InputError(
            "the job was begun without --mask-pii, and today SHELFWISE_MASK_PII or shelfwise.toml asks for it: begin a new "
            "job, or go on with SHELFWISE_MASK_PII=false"
        )


def schemas_of(schema: Path | None, attributes: str | None) -> list[AttributeSchema]:
    """What --schema (a file or folder) or --attributes (names with commas) ask for; the shipped schemas where neither is given.
    Raises InputError for both."""
    if schema and attributes:
        raise InputError("--schema and --attributes both say what to extract; give one of them")
    if attributes is not None:
        return [AttributeSchema.from_names(attributes.split(","))]
    return load_schemas(schema or PROMPTS / "schemas")


def adapters_of(settings: Settings) -> list[Adapter]:
    """What the engine has to hold: the one adapter of all offers, those that a registry has promoted. Raises InputError."""
    own = [open_adapter(settings.adapter)] if settings.adapter else []
    promoted = Registry(settings.adapters).promoted().values() if settings.adapters else ()
    return list({a.reference: a for a in (*own, *promoted)}.values())


def model_of(settings: Settings) -> tuple[str, str | None]:
    """The model and the adapter of an engine in this process, as provenance names them."""
    adapter = open_adapter(settings.adapter).reference if settings.adapter else None
    return model_reference(settings.model or "base"), adapter


def calibration_file(settings: Settings) -> Path | None:
    """Where the model's calibration belongs: in the folder of the adapter or else of the model; None where there is none."""
    if settings.engine not in LOCAL:
        return None
    if settings.adapter:
        return settings.adapter / FILE
    folder = Path(resolve_model(settings.model or "base"))
    return folder / FILE if folder.is_dir() else None


def find_calibration(settings: Settings) -> Calibration | None:
    """The calibration that the settings name (`none` and `off` mean none), else that in the model's folder, if there is one.
    Raises InputError for that of another model."""
    if settings.calibration in ("none", "off"):
        return None
    file = Path(settings.calibration).expanduser() if settings.calibration else calibration_file(settings)
    if file is None or not (settings.calibration or file.is_file()):
        return None
    found = load_calibration(file)
    if settings.engine in LOCAL:  # the extractor looks too, but only once its engine has started
        found.check(*model_of(settings))
    return found


def make_extractor(
    engine: Engine,
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    demonstrations: Sequence[LabelledOffer] = (),
    template: Template | None = None,
) -> Extractor:
    """`demonstrations` are for what no adapter with labels of its own answers; `template` stands in for that of the settings."""
    return _extractor(engine, settings, schemas, _askings(settings, schemas, demonstrations, template))


def _extractor(
    engine: Engine,
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    askings: tuple[Asking, dict[str, Asking]],
) -> Extractor:
    asking, routes = askings
    return Extractor(
        engine,
        schemas,
        asking.template,
        demonstrations=asking.demonstrations,
        vocabulary=asking.vocabulary,
        grounding=settings.grounding,
        truncate=settings.truncate,
        calibration=asking.calibration,
        adapter=asking.adapter,
        routes=routes,
        mask_pii=settings.mask_pii,
    )


def _askings(
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    demonstrations: Sequence[LabelledOffer],
    template: Template | None,
) -> tuple[Asking, dict[str, Asking]]:
    """How offers are asked about, and those of categories with a promoted adapter. Raises AdapterError where that was trained
    for another schema."""
    own = open_adapter(settings.adapter) if settings.adapter else None
    routes = {}
    for category, adapter in (Registry(settings.adapters).promoted() if settings.adapters else {}).items():
        for schema in schemas:
            if category_key(schema.category) == category_key(category):
                trained = adapter.card.schemas[category] if adapter.card else schema.reference
                if trained != schema.reference:
                    raise AdapterError(
                        f"{adapter.folder}: trained for {trained}, not for {schema.reference}; train it anew, roll it back, or "
                        "extract without --adapters"
                    )
                routes[category] = _asking(settings, schemas, (), adapter)
    return _asking(settings, schemas, demonstrations, own, template), routes


def _asking(
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    demonstrations: Sequence[LabelledOffer],
    adapter: Adapter | None = None,
    template: Template | None = None,
) -> Asking:
    """An adapter is asked as it was trained: with its template, and known values and demonstrations of its own labels."""
    k, known = settings.k, settings.known
    if adapter and adapter.card:
        k, known = adapter.card.k, adapter.card.known
        demonstrations = read_labelled(adapter.folder / LABELS)
        template = template_of(adapter.folder, adapter.card)
        if template.sha256 != adapter.card.template_sha256:
            raise AdapterError(f"{adapter.folder}: its template {template.reference} has changed since it was trained")
    if settings.mask_pii:  # in demonstrations there is none, for their values would stand in their texts no more
        demonstrations = [offer for offer in demonstrations if masked(offer) is offer]
    return Asking(
        template or load_template(settings.template),
        DemonstrationPool(demonstrations, k, settings.choice, order=settings.order),
        Vocabulary(schemas, demonstrations if known else ()),
        adapter.reference if adapter else None,
        find_calibration(settings.model_copy(update={"adapter": adapter.folder if adapter else None})),
    )


def template_of(folder: Path, card: Card) -> Template:
    """Of an adapter: that in its folder, for files move and stores are elsewhere, or the shipped one that its card names."""
    file = folder / TEMPLATE
    if file.is_file():
        return compile_template(file.read_text(encoding="utf-8"), card.template, file)
    return load_template(card.template)


@contextmanager
def open_extractor(
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    demonstrations: Sequence[LabelledOffer] = (),
    template: Template | None = None,
) -> Iterator[Extractor]:
    """As `make_extractor`, with an engine of its own, which is closed at the end."""
    # A mistake in these shows before the engine starts, which takes half a minute.
    askings = _askings(settings, schemas, demonstrations, template)
    engine = create_engine(settings.engine, **settings.engine_options())
    try:
        yield _extractor(engine, settings, schemas, askings)
    finally:
        engine.close()
