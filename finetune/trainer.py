"""The trainer of adapters: conversations without padding, logits only where an answer stands, extraction as the evaluation."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import peft
import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback

from eval.baselines.training import extraction_f1
from extractor.extract import Extractor
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema
from finetune.attention import BY_CONVERSATION
from finetune.conversations import IGNORED, Example


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """All batches of a training in order, each one row of conversations without padding."""

    def __init__(self, batches: Callable[[], Iterator[Sequence[Example]]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return map(row, self.batches())


def row(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Conversations one behind the other; positions start anew with each."""
    return {
        "input_ids": torch.tensor([[i for e in examples for i in e.input_ids]]),
        "labels": torch.tensor([[i for e in examples for i in e.labels]]),
        "position_ids": torch.tensor([[i for e in examples for i in range(len(e.input_ids))]]),
    }


class AdapterTrainer(Trainer):
    """Logits only where an answer stands, attention inside each conversation, and extraction as the evaluation."""

    extractor: Extractor
    schemas: Sequence[AttributeSchema]
    fgm: float
    scored: Callable[[int, float], None]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ids, positions, labels = inputs["input_ids"], inputs["position_ids"], inputs["labels"][0, 1:]
        answered = (labels != IGNORED).nonzero()[:, 0]
        inner = self.accelerator.unwrap_model(model)
        causal = inner.get_base_model() if isinstance(inner, peft.PeftModel) else inner
        if not isinstance(inner, peft.PeftModelForCausalLM) or inner.active_peft_config.peft_type != "PREFIX_TUNING":
            causal.set_attn_implementation(BY_CONVERSATION)

        def loss(embedded: torch.Tensor) -> torch.Tensor:
            made = model(inputs_embeds=embedded, position_ids=positions, logits_to_keep=answered, use_cache=False)
            return torch.nn.functional.cross_entropy(made.logits[0].float(), labels[answered])

        embedded = causal.get_input_embeddings()(ids)
        if not self.fgm:
            return loss(embedded)
        if not embedded.requires_grad:
            embedded.requires_grad_()
        clean = loss(embedded)
        (gradient,) = torch.autograd.grad(clean, embedded, retain_graph=True)
        return (clean + loss(embedded + self.fgm * gradient / (gradient.norm() + 1e-12))) / 2

    def extraction_score(self, offers: Sequence[LabelledOffer]) -> float:
        """F1 of the published protocol, in per cent."""
        model = self.accelerator.unwrap_model(self.model)
        causal = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        causal.set_attn_implementation("sdpa")  # generation has keys of earlier steps
        model.eval()
        records = self.extractor.extract(offers)
        model.train()
        return extraction_f1(offers, records, self.schemas)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        f1 = self.extraction_score(cast(Sequence[LabelledOffer], self.eval_dataset))
        metrics = {f"{metric_key_prefix}_f1": f1}
        self.log(metrics)
        self.scored(self.state.global_step, f1)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Allocate(TrainerCallback):
    """AdaLoRA moves rank from where it is of little use to where it is of more, after each step. Its term that keeps
    matrices orthogonal is left out: PEFT adds it to a loss of the model's own."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        config = model.active_peft_config
        config.total_step = state.max_steps
        config.tinit, config.tfinal, config.deltaT = state.max_steps // 5, state.max_steps // 2, 1

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


class Steps(TrainerCallback):
    """One line for each log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        where = f"step {state.global_step}/{state.max_steps}"
        if "loss" in logs:
            print(f"{where}: loss {float(logs['loss']):.4f}", file=sys.stderr, flush=True)
        elif "eval_f1" in logs:
            print(f"{where}: held-out F1 {float(logs['eval_f1']):.2f}", file=sys.stderr, flush=True)
