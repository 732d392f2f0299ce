"""LoRA products of vLLM on a CPU, grouped by adapter.

vLLM's own (`vllm.lora.ops.torch_ops`, 0.32) gather a copy of an adapter's matrix for every token, which takes most of a step, and
give a token without an adapter that of the last slot (https://github.com/vllm-project/vllm/pull/48421). These gather none:
tokens are grouped by adapter, and those without one are left out.
"""

from functools import lru_cache
from typing import Any

import numpy
import torch


def install() -> None:
    """Put them in the place of vLLM's, in this process."""
    from vllm.lora.layers import base_linear
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (lora_ops, punica_cpu):
        for function in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
            setattr(module, function.__name__, function)
    # vLLM asks a layer's weight where it is; one in 8 bits has packed it away.
    base_linear._get_lora_device = lambda layer: torch.device("cpu")


class _Plan:
    """The tokens of a batch by adapter. `slots` of the adapters; `places` is adapters x longest, the tokens of each, padded;
    `tokens` and `cells` go together: a token, and where its product stands in a flattened adapters x longest."""

    def __init__(self, indices: numpy.ndarray[Any, Any]) -> None:
        slots, begins, counts = numpy.unique(numpy.sort(indices), return_index=True, return_counts=True)
        order, longest = numpy.argsort(indices, kind="stable"), int(counts[slots >= 0].max(initial=0))
        held = [(s, order[b : b + n]) for s, b, n in zip(slots, begins, counts, strict=True) if s >= 0]
        places = numpy.zeros((len(held), longest), dtype=numpy.int64)
        for row, (_, tokens) in zip(places, held, strict=True):
            row[: len(tokens)] = tokens
        cells = [i * longest + numpy.arange(len(tokens)) for i, (_, tokens) in enumerate(held)]
        self.slots = torch.tensor([int(s) for s, _ in held], dtype=torch.int64)
        self.places = torch.from_numpy(places)
        self.groups = [torch.from_numpy(tokens) for _, tokens in held]
        self.tokens = torch.cat(self.groups) if held else torch.zeros(0, dtype=torch.int64)
        self.cells = torch.from_numpy(numpy.concatenate(cells)) if held else self.tokens
        # One product over padded groups, unless padding is most of it.
        self.padded = places.size <= 2 * len(indices)


@lru_cache(maxsize=64)  # a step asks for the same one in every layer
def _plan(indices: bytes) -> _Plan:
    return _Plan(numpy.frombuffer(indices, dtype=numpy.int64))


def _products(inputs: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that have an adapter, and their products with its matrix (`weights`: slots x output x input)."""
    plan = _plan(indices[: len(inputs)].to(torch.int64).contiguous().numpy().tobytes())
    matrices = weights[:, 0] if weights.ndim == 4 else weights
    if len(plan.slots) == 1 or not plan.padded:
        made = [
            inputs[t] @ matrices[s].to(inputs.dtype).T for s, t in zip(plan.slots.tolist(), plan.groups, strict=True)
        ]
        return plan.tokens, torch.cat(made)
    chosen = matrices[plan.slots].to(inputs.dtype)
    return plan.tokens, torch.bmm(inputs[plan.places], chosen.mT).flatten(0, 1)[plan.cells]


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """output[:, :rank] = scaling * inputs @ A, 0 for tokens without an adapter."""
    output_tensor.zero_()
    tokens, made = _products(inputs.to(output_tensor.dtype), lora_b_weights, lora_indices_tensor)
    if len(tokens):
        output_tensor[tokens, : made.shape[1]] = scaling * made


def bgmv_expand_slice(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """output[:, offset : offset + size] += inputs @ B."""
    tokens, made = _products(inputs.to(output_tensor.dtype), lora_b_weights, lora_indices_tensor)
    if not len(tokens):
        return
    width = min(slice_size, made.shape[1])  # adapter and model may be padded differently
    part = output_tensor[:, slice_offset : slice_offset + width]
    if add_inputs:
        part.index_add_(0, tokens, made[:, :width])
    else:
        part.index_copy_(0, tokens, made[:, :width])


def bgmv_expand(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    add_inputs: bool = True,
) -> None:
    """output += inputs @ B."""
    size = output_tensor.shape[1]
    bgmv_expand_slice(inputs, lora_b_weights, output_tensor, lora_indices_tensor, 0, size, add_inputs)
