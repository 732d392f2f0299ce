"""The folder of a trained baseline: `baseline.json` says which one it is, with its schemas and what else it needs; weights
stand beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extractor.errors import InputError
from extractor.schema import AttributeSchema

FILE = "baseline.json"


def write(folder: Path, baseline: str, schemas: Sequence[AttributeSchema], **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"baseline": baseline, "schemas": [s.model_dump(mode="json") for s in schemas], **more}
    (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """What `write` was given; `schemas` are schemas again. Raises InputError where the folder holds no trained baseline."""
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        schemas = [AttributeSchema.model_validate(s) for s in content["schemas"]]
        return content | {"baseline": str(content["baseline"]), "schemas": schemas}
    except OSError as error:
        raise InputError(
            f"{folder}: no trained baseline; `shelfwise eval baseline NAME --out {folder}` makes one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE}: broken ({error}); train the baseline anew") from error
