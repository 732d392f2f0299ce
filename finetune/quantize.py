"""A model with linear layers in 8 bits, weights and activations (W8A8), as vLLM serves it on CPUs and GPUs.

    shelfwise finetune quantize --model base --out models/base-w8a8
    shelfwise extract … --model models/base-w8a8

Weights are rounded to the nearest step of their row, activations when they arrive: nothing is calibrated, so no data is
needed. The output layer, which small models share with their embeddings, keeps its precision. Adapters of the model go on
top of it as they are.
"""

import json
import shutil
from pathlib import Path

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized

from extractor.adapters import fingerprint
from extractor.engines.huggingface import load
from extractor.engines.models import resolve_model
from extractor.errors import InputError


def quantize(model: str, out: Path) -> Path:
    """Write the model in 8 bits to a folder that is not there yet. Raises InputError where that cannot be, EngineError for a
    model that cannot be loaded."""
    if out.exists():
        raise InputError(f"{out}: is there already; choose another folder")
    loaded, tokenizer = load(model, "cpu")
    scheme = preset_name_to_scheme("W8A8", ["Linear"])
    apply_quantization_config(loaded, QuantizationConfig(config_groups={"linear": scheme}, ignore=["lm_head"]))
    for module in loaded.modules():
        if is_module_quantized(module):
            low, high = module.weight.aminmax(dim=1, keepdim=True)
            module.weight_scale.data, _ = calculate_qparams(low, high, scheme.weights)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(loaded)
    compressor.compress_model(loaded)
    for name, parameter in loaded.named_parameters():  # a step with bfloat16's eight bits would round once more
        if parameter.is_floating_point() and not name.endswith("weight_scale"):
            parameter.data = parameter.data.bfloat16()
    loaded.config.dtype = "bfloat16"
    aside = out.with_name(f".{out.name}")
    try:
        loaded.save_pretrained(aside)
        compressor.update_config(str(aside))
        tokenizer.save_pretrained(aside)
        card = {"name": out.name, "version": 1, "quantized_from": fingerprint(resolve_model(model))}
        (aside / "shelfwise.json").write_text(json.dumps(card) + "\n", encoding="utf-8")
        aside.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be saved: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out
