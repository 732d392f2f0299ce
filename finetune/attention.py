"""Attention for rows that hold several conversations, without padding."""

from typing import Any

import torch
from transformers import AttentionInterface

BY_CONVERSATION = "by_conversation"  # its name in transformers


def attention_by_conversation(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    *,
    position_ids: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention for packed rows (heads are batch x heads x tokens x size), one conversation at a time: masking those of a
    row against each other would first compute what it throws away, at 1,024 tokens a fifth of a CPU's step."""
    batch, _heads, tokens, _size = query.shape
    begins = (position_ids.flatten() == 0).nonzero()[:, 0]
    groups = query.shape[1] // key.shape[1]
    # tokens of the whole batch x heads x size
    query, key, value = (
        part.transpose(1, 2).flatten(0, 1)
        for part in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))
    )
    if query.is_cuda:
        attended = _on_gpu(query, key, value, begins, tokens, scaling)
    else:
        attended = _on_cpu(query, key, value, begins, scaling)
    return attended.unflatten(0, (batch, tokens)), None


def _on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    bounds = torch.nn.functional.pad(begins, (0, 1), value=len(query)).int()
    half = [part.bfloat16() for part in (query, key, value)]  # norms leave queries and keys in float32
    attended = varlen_attn(*half, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0))
    assert isinstance(attended, torch.Tensor)
    return attended


def _on_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, begins: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    lengths = torch.nn.functional.pad(begins, (0, 1), value=len(query)).diff().tolist()
    pieces = (part.float().transpose(0, 1)[None].split(lengths, 2) for part in (query, key, value))
    with torch.autocast("cpu", enabled=False):  # its gradients take a CPU half as long again in bfloat16
        attended = [
            torch.nn.functional.scaled_dot_product_attention(*piece, is_causal=True, scale=scaling)
            for piece in zip(*pieces, strict=True)
        ]
    return torch.cat(attended, 2)[0].transpose(0, 1)


AttentionInterface.register(BY_CONVERSATION, attention_by_conversation)
