"""Settings of a run, from the command line, `SHELFWISE_*` variables and `shelfwise.toml`, in this order of precedence.

Read at the edges only: the library takes plain arguments.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from extractor.constraints import Grounding
from extractor.demonstrations import Choice, DemonstrationPool, Order
from extractor.engines import Engine, create_engine
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.prompts import load_template
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema


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
    truncate: bool = False
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
        grounding=settings.grounding,
        truncate=settings.truncate,
    )


@contextmanager
def open_extractor(
    settings: Settings, schemas: Sequence[AttributeSchema], demonstrations: Sequence[LabelledOffer] = ()
) -> Iterator[Extractor]:
    """An extractor with an engine of its own, which is closed at the end."""
    load_template(settings.template)  # a mistake in it shows before the engine starts, which takes half a minute
    engine = create_engine(settings.engine, **settings.engine_options())
    try:
        yield make_extractor(engine, settings, schemas, demonstrations)
    finally:
        engine.close()
