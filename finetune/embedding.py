"""Sentence embeddings of MiniLM."""

from collections.abc import Sequence

import torch

from eval.baselines.encoder import encoder_folder


@torch.no_grad()
def embedded(texts: Sequence[str], batch: int = 256) -> torch.Tensor:
    """texts x width, each of length 1: the mean of a text's token vectors, as sentence-transformers has it."""
    from transformers import AutoModel, AutoTokenizer

    folder = encoder_folder()
    reader, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = torch.zeros(len(texts), model.config.hidden_size)
    for begin in range(0, len(texts), batch):
        inputs = reader(
            list(texts[begin : begin + batch]), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        mask = inputs["attention_mask"][..., None]
        pooled = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors[begin : begin + batch] = torch.nn.functional.normalize(pooled, dim=-1)
    return vectors
