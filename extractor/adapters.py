"""LoRA adapters: whether a folder of weights belongs to a base model."""

import json
from pathlib import Path
from typing import Any

from extractor.errors import AdapterError


def check_adapter(adapter: Path, base: str) -> int:
    """Refuse an adapter that is damaged or was made for another base model; return its rank.

    Compared are the shapes of the weights: the name that PEFT writes into `adapter_config.json` is a path on the
    machine of whoever trained it.
    """
    config_path, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    for file in (config_path, weights):
        if not file.is_file():
            raise AdapterError(f"{adapter}: no {file.name}; --adapter takes a folder that PEFT saved")
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        rank = int(config["r"])
        with weights.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (ValueError, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise AdapterError(f"{adapter}: damaged: {error}") from error
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
    return rank
