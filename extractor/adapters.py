"""LoRA adapters: what a folder of weights is and was made for, and the registry that says which one serves a category.

adapters/                    a registry
  registry.json              every promotion and rollback, in order
  shoes/1/ shoes/2/          versions: what PEFT saved, with adapter.json (its card), labels.jsonl (what it learned from) and
                             template.jinja (how it is asked)
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from extractor.errors import AdapterError, InputError, StorageError, explain
from extractor.schema import category_key

CARD, LABELS, TEMPLATE, REGISTRY = "adapter.json", "labels.jsonl", "template.jinja", "registry.json"


class Card(BaseModel):
    """What made an adapter. `base` is name@version, `base_fingerprint` of its weights; `schemas` are category -> schema@hash;
    `labels_sha256` of labels.jsonl; `scores` of offers that were held out, if any were."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    base: str
    base_fingerprint: str
    schemas: dict[str, str]
    template: str
    template_sha256: str
    k: int
    known: bool
    labels: int
    labels_sha256: str
    recipe: dict[str, Any]
    scores: dict[str, Any]
    created: str


@dataclass(frozen=True)
class Adapter:
    """`reference` goes into provenance: name@version of its card, or the folder's name where PEFT alone wrote it."""

    reference: str
    folder: Path
    card: Card | None


def open_adapter(folder: Path) -> Adapter:
    """Raises AdapterError for a folder without an adapter, or with a broken card."""
    file = folder / CARD
    if not file.is_file():
        if not (folder / "adapter_config.json").is_file():
            raise AdapterError(f"{folder}: no adapter_config.json; --adapter takes a folder that PEFT saved")
        return Adapter(folder.name, folder, None)
    try:
        card = Card.model_validate_json(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise AdapterError(f"{file}: not UTF-8 at byte {error.start}") from error
    except ValidationError as error:
        raise AdapterError(f"{file}: not the card of an adapter: {explain(error)}") from error
    return Adapter(f"{card.name}@{card.version}", folder, card)


def fingerprint(model: str) -> str:
    """Sixteen hexadecimal digits of a model folder's configuration and weights (of each file 64 pieces of 16 KiB, evenly spread:
    a whole model is too long to read at each start); a hub name stands for itself. A quantized model has that of the one it was
    made of, whose adapters it serves."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    card = folder / "shelfwise.json"
    if card.is_file() and (origin := json.loads(card.read_text(encoding="utf-8")).get("quantized_from")):
        return str(origin)
    content = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        content.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            for piece in range(64):
                stream.seek(piece * size // 64)
                content.update(stream.read(1 << 14))
    return content.hexdigest()[:16]


def next_version(folder: Path) -> int:
    """Of the adapter whose versions are in this folder."""
    return 1 + max((int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()), default=0)


class Registry:
    """A folder of adapters, and the history of which one serves which category. Changing it raises StorageError where it cannot
    be written."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(
                f"{root}: no such folder of adapters; `shelfwise finetune lora --out {root}/NAME` begins one"
            )
        self.root = root
        try:
            file = root / REGISTRY
            self.history: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        except ValueError as error:
            raise AdapterError(f"{root / REGISTRY}: broken: {error}") from error

    def adapters(self) -> Iterator[Adapter]:
        """All versions, by name and number."""
        found = [open_adapter(p.parent) for p in self.root.glob(f"*/*/{CARD}")]
        yield from sorted(found, key=lambda a: (a.card.name, a.card.version) if a.card else (a.reference, 0))

    def find(self, reference: str) -> Adapter:
        """An adapter by name@version, or the newest of a name. Raises InputError."""
        name = reference.partition("@")[0]
        found = [
            a for a in self.adapters() if a.reference == reference or (a.card and a.card.name == name == reference)
        ]
        if not found:
            known = ", ".join(a.reference for a in self.adapters()) or "none"
            raise InputError(f"{self.root}: no adapter {reference!r}; there are {known}")
        return max(found, key=lambda a: a.card.version if a.card else 0)

    def promoted(self) -> dict[str, Adapter]:
        """category -> the adapter that serves it. Raises InputError for one whose folder is gone."""
        by_reference = {a.reference: a for a in self.adapters()}
        serving = self.serving()
        if gone := [r for r in serving.values() if r not in by_reference]:
            raise InputError(
                f"{self.root}: {gone[0]} was promoted, and its folder is gone; put it back or roll it back"
            )
        return {category: by_reference[reference] for category, reference in serving.items()}

    def serving(self) -> dict[str, str]:
        """category -> reference of the adapter that was promoted for it last and not rolled back."""
        return {category: stack[-1] for category, stack in self._stacks().items() if stack}

    def _stacks(self) -> dict[str, list[str]]:
        stacks: dict[str, list[str]] = {}
        for entry in self.history:
            for category in entry["categories"]:
                stack = stacks.setdefault(category, [])
                if entry["adapter"] is None:
                    stack.pop()
                else:
                    stack.append(entry["adapter"])
        return stacks

    def promote(self, adapter: Adapter, evidence: Mapping[str, Any], forced: str | None = None) -> None:
        """From now on the adapter serves its categories; `evidence` and the reason of a `forced` promotion are kept."""
        if adapter.card is None:
            raise AdapterError(f"{adapter.folder}: no {CARD}, so it is not known which category it was trained for")
        self._enter(adapter.reference, list(adapter.card.schemas), {"evidence": dict(evidence), "forced": forced})

    def rollback(self, category: str) -> tuple[str, str | None]:
        """Take back the last promotion of a category: the category, and what serves it now, None for prompting. Raises
        InputError."""
        stacks = {category_key(c): (c, stack) for c, stack in self._stacks().items()}
        name, stack = stacks.get(category_key(category), (category, []))
        if not stack:
            served = ", ".join(self.serving()) or "none"
            raise InputError(f"{self.root}: no adapter serves {category!r}; served are {served}")
        self._enter(None, [name], {})
        return name, stack[-2] if len(stack) > 1 else None

    def restore(self, history: Sequence[Mapping[str, Any]]) -> None:
        """As it was: what was entered since could not be served."""
        self.history = [dict(entry) for entry in history]
        self._write()

    def _enter(self, adapter: str | None, categories: list[str], more: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.history.append({"adapter": adapter, "categories": categories, "at": now, **more})
        self._write()

    def _write(self) -> None:
        aside = self.root / f".{REGISTRY}.{os.getpid()}"
        try:
            aside.write_text(json.dumps(self.history, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            aside.replace(self.root / REGISTRY)
        except OSError as error:
            raise StorageError(f"{self.root / REGISTRY}: cannot be written: {error.strerror}") from error


def check_adapter(adapter: Path, base: str) -> dict[str, Any]:
    """Refuse an adapter that is damaged or was made for another base model; return PEFT's configuration of it.

    Compared are the fingerprint of its card, if it has one, and the shapes of the weights: the name that PEFT writes into
    `adapter_config.json` is a path on the machine of whoever trained it.
    """
    config_path, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    for file in (config_path, weights):
        if not file.is_file():
            raise AdapterError(f"{adapter}: no {file.name}; --adapter takes a folder that PEFT saved")
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        with weights.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (ValueError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise AdapterError(f"{adapter}: damaged: {error}") from error
    card = open_adapter(adapter).card
    if card and card.base_fingerprint != fingerprint(base):
        raise AdapterError(f"{adapter}: made for {card.base}, and {base} has other weights; train it anew")
    base_config = Path(base) / "config.json"
    if base_config.is_file():
        model = json.loads(base_config.read_text(encoding="utf-8"))
        hidden, layers = model.get("hidden_size"), model.get("num_hidden_layers")
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        widths = {shape[1] for name, shape in shapes.items() if "q_proj.lora_A" in name}
        deepest = max((int(n.split(".layers.")[1].split(".")[0]) for n in shapes if ".layers." in n), default=0)
        if (widths and widths != {hidden}) or (layers and deepest >= layers):
            made_for = config.get("base_model_name_or_path") or "another model"
            raise AdapterError(
                f"{adapter}: made for {made_for} (width {sorted(widths)}, layer {deepest}), not for {base}"
                f" (width {hidden}, {layers} layers); pass the --model that it was trained on"
            )
    return config


def rank_for_vllm(adapter: Path, config: dict[str, Any]) -> int:
    """The rank of an adapter that vLLM can serve; AdapterError for another kind."""
    kind = "DORA" if config.get("use_dora") else config.get("peft_type")
    if kind != "LORA" or not isinstance(config.get("r"), int):
        raise AdapterError(f"{adapter}: vLLM serves LoRA and rsLoRA, not {kind}; use --engine huggingface")
    return int(config["r"])
