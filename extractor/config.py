"""Settings of a run, from the command line, `SHELFWISE_*` variables and `shelfwise.toml`, in this order of precedence.

Read at the edges only: the library takes plain arguments.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from extractor.confidence import FILE, Calibration, load_calibration
from extractor.constraints import Grounding
from extractor.demonstrations import Choice, DemonstrationPool, Order
from extractor.engines import Engine, create_engine
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.prompts import load_template
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema
from extractor.vocabulary import Vocabulary

LOCAL = ("vllm", "huggingface")  # engines that load a model into this process


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHELFWISE_", toml_file="shelfwise.toml", extra="forbid")

    engine: Literal["vllm", "server", "huggingface", "scripted"] = "vllm"
    model: str | None = None
    adapter: Path | None = None
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
    calibration: str | None = None
    chunk: int = Field(default=512, ge=1)

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
                }
            case "scripted":
                return {}
            case "huggingface":
                return {"model": self.model or "base"}
        return {"model": self.model or "base", "adapter": self.adapter}


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


def model_of(settings: Settings) -> tuple[str, str | None]:
    """The model and the adapter of an engine in this process, as provenance names them."""
    adapter = settings.adapter if settings.engine == "vllm" else None
    return model_reference(settings.model or "base"), adapter.name if adapter else None


def calibration_file(settings: Settings) -> Path | None:
    """Where the model's calibration belongs: in the folder of the adapter or else of the model; None where there is none."""
    if settings.engine not in LOCAL:
        return None
    if settings.engine == "vllm" and settings.adapter:
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
) -> Extractor:
    return Extractor(
        engine,
        schemas,
        settings.template,
        demonstrations=DemonstrationPool(demonstrations, settings.k, settings.choice, order=settings.order),
        vocabulary=Vocabulary(schemas, demonstrations if settings.known else ()),
        grounding=settings.grounding,
        truncate=settings.truncate,
        calibration=find_calibration(settings),
    )


@contextmanager
def open_extractor(
    settings: Settings, schemas: Sequence[AttributeSchema], demonstrations: Sequence[LabelledOffer] = ()
) -> Iterator[Extractor]:
    """An extractor with an engine of its own, which is closed at the end."""
    # A mistake in these shows before the engine starts, which takes half a minute.
    load_template(settings.template)
    find_calibration(settings)
    engine = create_engine(settings.engine, **settings.engine_options())
    try:
        yield make_extractor(engine, settings, schemas, demonstrations)
    finally:
        engine.close()
