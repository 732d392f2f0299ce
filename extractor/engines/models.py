"""Where models are: the bundled one, folders, names on the hub."""

import json
from pathlib import Path
from typing import Any

from extractor.errors import ModelNotFoundError

BASE_MODEL = Path(__file__).resolve().parent.parent / "base_model"


def resolve_model(model: str) -> str:
    """What to load: `base` is the bundled model, a path must be a model's folder, anything else is a hub name."""
    if model == "base":
        model = str(BASE_MODEL)
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).is_dir()
    if not looks_like_path:
        return model
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ModelNotFoundError(f"{model}: no such folder; --model takes a model's folder, a hub name, or `base`")
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{model}: the folder holds no config.json, so it is not a model")
    return str(folder)


def model_reference(model: str) -> str:
    """name@version for provenance: the version a folder declares in shelfwise.json, else the folder's or hub's name."""
    folder = Path(resolve_model(model))
    card = folder / "shelfwise.json"
    if card.is_file():
        data: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
        return f"{data['name']}@{data['version']}"
    return folder.name if folder.is_dir() else model
