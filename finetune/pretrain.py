"""Train the base model on the synthetic corpus.

    python -m finetune start --out runs/start
    python -m finetune pretrain --start runs/start --out runs/base
    python -m finetune pretrain --start runs/start --out runs/try --steps 50
    python -m finetune pretrain --start runs/try/checkpoint-50 --out runs/longer --block 2048 --rows 4

Results so far: finetune/LOG.md.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy
import torch
import typer
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

from extractor.prompts import Message
from finetune.attention import BY_CONVERSATION
from finetune.conversations import IGNORED, encode, packed, synthetic_conversations
from finetune.labelled import labelled_conversations

VALIDATION_SEED = 1_000_003
NEGATIVES = 2048  # tokens drawn as wrong answers, beside those of the batch


class Rows(IterableDataset[dict[str, list[int]]]):
    """Packed rows of the synthetic corpus, a `share` of conversations of labelled offers instead. Workers draw from seeds of
    their own."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        block: int,
        seed: int,
        limit: int | None = None,
        labelled: Path | None = None,
        share: float = 0.0,
    ) -> None:
        self.tokenizer, self.block, self.seed, self.limit = tokenizer, block, seed, limit
        self.labelled, self.share = labelled, share

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        worker = get_worker_info()
        seed = self.seed + (1_000_000_007 * (worker.id + 1) if worker else 0)
        examples = (encode(c, self.tokenizer) for c in self._conversations(seed))
        pad: Any = self.tokenizer.pad_token_id
        return islice(packed(examples, self.block, pad), self.limit)

    def _conversations(self, seed: int) -> Iterator[list[Message]]:
        synthetic = synthetic_conversations(seed)
        if self.labelled is None:
            return synthetic
        rng, real = Random(seed), labelled_conversations(self.labelled, seed)
        return (next(real if rng.random() < self.share else synthetic) for _ in count())


class Muon(torch.optim.AdamW):
    """Muon (https://kellerjordan.github.io/posts/muon/) for the groups marked `orthogonal`, AdamW for the others. Updates are as
    large as AdamW's (https://arxiv.org/abs/2502.16982), so that one learning rate serves both. torch's own Muon computes in
    bfloat16, which a CPU without AVX-512 emulates."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"] if group["orthogonal"] else ():
                if p not in self.state:  # by the names of AdamW's own, which loads it again
                    self.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p)}
                momentum = self.state[p]["exp_avg"].lerp_(p.grad, 0.05)
                update = orthogonal(p.grad.lerp(momentum, 0.95))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])
                p.grad = None  # AdamW passes over it
        return super().step(closure)


def orthogonal(gradient: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near 1, by the quintic Newton-Schulz iteration of Muon."""
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if gradient.shape[0] > gradient.shape[1] else x


def optimizer(model: Any, learning_rate: float, slow: float) -> torch.optim.Optimizer:
    """Embeddings move slowly, at a share of the learning rate, and do not decay, so that words that the corpus lacks keep their
    place among the others."""
    embedding = model.get_input_embeddings().weight
    rest = [p for p in model.parameters() if p is not embedding]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "lr": learning_rate, "weight_decay": 0.1, "orthogonal": True},
        {"params": [p for p in rest if p.ndim == 1], "lr": learning_rate, "weight_decay": 0.0, "orthogonal": False},
        {"params": [embedding], "lr": slow * learning_rate, "weight_decay": 0.0, "orthogonal": False},
    ]
    return Muon(groups, betas=(0.9, 0.95), fused=True)


class Clock(TrainerCallback):
    """Ends a training after so many minutes, and tells its schedule how much of them is over."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self.begun = 60 * minutes, time.monotonic()

    def over(self) -> float:
        return (time.monotonic() - self.begun) / self.seconds

    def cosine(self, step: int) -> float:
        """Share of the learning rate, after a warm-up over a thirtieth of the time, and ten steps at least."""
        over = min(1.0, self.over())
        return min(1.0, 30 * over, (step + 1) / 10) * (1 + math.cos(math.pi * over)) / 2

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.over() >= 1:
            control.should_training_stop = control.should_save = True  # so that another run can go on from there


class AnswerTrainer(Trainer):
    """Computes logits only where an answer stands, and over the tokens of the batch with some drawn ones: under a constraint, a
    model chooses among the words of the offer, and over a vocabulary of thousands the rest is half of a CPU's step."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        decoder = self.accelerator.unwrap_model(model)
        labels = inputs["labels"][:, 1:]
        answered = labels != IGNORED
        with self.accelerator.autocast():  # what is unwrapped has none of its own
            hidden = decoder.model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"])[0]
            weight = decoder.lm_head.weight
            drawn = torch.randint(len(weight), (NEGATIVES,), device=weight.device)
            candidates = torch.cat([inputs["input_ids"].flatten(), drawn]).unique()
            logits = hidden[:, :-1][answered] @ weight[candidates].T
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.searchsorted(candidates, labels[answered]))
        if not return_outputs:
            return loss
        predicted = torch.full_like(inputs["labels"], IGNORED)
        predicted[:, :-1][answered] = candidates[logits.argmax(-1)]
        return loss, {"predicted": predicted}


def stack(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def cell_scores(prediction: EvalPrediction, null: int) -> dict[str, float]:
    """Under teacher forcing: the share of decided tokens predicted right, and micro-F1 over cells (an attribute of an offer).
    `null` is the token that says there is no value. A cell's decided tokens stand together; the first opens a text or not."""
    labels, predicted = prediction.label_ids[:, 1:], prediction.predictions[:, :-1]
    decided = labels != IGNORED
    true = answered = gold = 0
    for row, begins in enumerate(decided & ~numpy.pad(decided, ((0, 0), (1, 0)))[:, :-1]):
        for begin in begins.nonzero()[0]:
            end = begin + int(decided[row, begin:].argmin() or decided.shape[1])
            said, right = predicted[row, begin:end], labels[row, begin:end]
            empty = null in right
            gold += not empty
            # What follows another opening than gold's is conditioned on gold and says nothing of the cell.
            answers = null not in said if said[0] == right[0] else empty
            answered += answers
            true += not empty and bool((said == right).all())
    f1 = 2 * true / (answered + gold) if answered + gold else 0.0
    return {"token_accuracy": float((predicted == labels)[decided].mean()), "f1": f1}


def pretrain(
    start: Annotated[Path, typer.Option(help="Model and tokenizer to go on from: of `start`, or a checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")] = Path("runs/base"),
    labelled: Annotated[Path | None, typer.Option(help="A folder whose train split is mixed in.")] = None,
    share: Annotated[float, typer.Option(help="Share of conversations from it.")] = 0.2,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1850,
    rows: Annotated[int, typer.Option(help="Packed rows a pass.")] = 8,
    block: Annotated[int, typer.Option(help="Tokens a row.")] = 512,
    accumulate: Annotated[int, typer.Option(help="Passes a step.")] = 1,
    learning_rate: float = 2e-3,
    slow: Annotated[float, typer.Option(help="Share of the learning rate that embeddings get.")] = 0.1,
    schedule: Annotated[str, typer.Option(help="Of the learning rate, by its name in transformers.")] = "cosine",
    minutes: Annotated[
        float | None, typer.Option(help="End by the clock, with a cosine over these minutes, or after `steps`.")
    ] = None,
    seed: int = 1,
    evaluate_every: int = 250,
    version: Annotated[int, typer.Option(help="The model is base@VERSION in provenance.")] = 1,
    report: Annotated[str, typer.Option(help="Where curves go: tensorboard, wandb, none.")] = "tensorboard",
    workers: Annotated[int, typer.Option(help="Processes that prepare data; 0 on two cores.")] = 0,
) -> None:
    """Train; a killed run resumes from its last checkpoint."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM.from_pretrained(
        start, dtype=torch.float32, use_cache=False, attn_implementation=BY_CONVERSATION
    )
    on_gpu = torch.cuda.is_available()
    learner = optimizer(model, learning_rate, slow)
    clock = Clock(minutes) if minutes else None
    scheduler = torch.optim.lr_scheduler.LambdaLR(learner, clock.cosine) if clock else None
    trainer = AnswerTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=rows,
            per_device_eval_batch_size=rows,
            gradient_accumulation_steps=accumulate,
            learning_rate=learning_rate,
            warmup_steps=max(steps // 30, 10),
            lr_scheduler_type=schedule,
            max_grad_norm=1.0,
            bf16=on_gpu,
            logging_steps=25,
            eval_strategy="steps",
            eval_steps=evaluate_every,
            save_steps=evaluate_every,
            save_total_limit=2,
            dataloader_num_workers=workers,
            dataloader_pin_memory=on_gpu,
            remove_unused_columns=False,
            include_num_input_tokens_seen=True,
            report_to=report,
            seed=seed,
            disable_tqdm=True,
        ),
        train_dataset=Rows(tokenizer, block, seed, labelled=labelled, share=share),
        eval_dataset=Rows(tokenizer, block, VALIDATION_SEED, limit=32),
        data_collator=stack,
        processing_class=tokenizer,  # checkpoints have it, and can be started from
        compute_metrics=partial(cell_scores, null=tokenizer.encode("null")[-1]),
        optimizers=(learner, scheduler),
        callbacks=[clock] if clock else None,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)))
    export(trainer.model, tokenizer, out / "model", version)
    print(f"wrote {out / 'model'}")


def export(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, version: int) -> None:
    """Write what the engines load: bfloat16 safetensors, configuration, tokenizer with its chat template."""
    shutil.rmtree(folder, ignore_errors=True)
    model.config.use_cache = True
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "shelfwise.json").write_text(json.dumps({"name": "base", "version": version}) + "\n")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}) + "\n"
    )
