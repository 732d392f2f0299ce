"""What a batch job was asked for, and what its records depend on."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MASKING = "mask_pii"  # among the prints of a job that masks


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Manifest(BaseModel):
    """`sources` are files, folders or globs; `prefix` begins the ids that rows without one are given; `settings` are those of
    `extractor.config` without secrets; `prints` say of everything that records depend on, by name, what it was; `changes`, what
    was accepted later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: list[str]
    part: int
    columns: dict[str, Any] = {}
    prefix: str = ""
    schema_path: str | None = None
    attributes: str | None = None
    demonstrations: str | None = None
    settings: dict[str, Any] = {}
    prints: dict[str, str] = {}
    created: str = Field(default_factory=now)
    changes: list[dict[str, str]] = []

    @property
    def masks_pii(self) -> bool:
        return MASKING in self.prints


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Names of what is not as it was."""
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]
