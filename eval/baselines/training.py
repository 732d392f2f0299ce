"""Fine-tuning as all BERT baselines do it: AdamW with warm-up and linear decay, dropout, weight decay, early stopping on
extraction F1 over a part of the training labels; scores by epoch on standard error and for TensorBoard."""

import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from eval.baselines.bio import Floats
from eval.baselines.recipe import Recipe
from eval.baselines.spans import schema_for
from eval.baselines.windows import Window
from eval.metrics import score, tabulate, tallies
from eval.predictions import from_record
from extractor.records import Extraction, Failure, LabelledOffer
from extractor.schema import AttributeSchema

IGNORED = -100  # a label without a loss
Row = dict[str, Any]  # one sequence: input_ids, token_type_ids, labels

# Reports of unused and fresh weights for each load say nothing here: a fresh head is what is wanted.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def row(window: Window, labels: Any = None) -> Row:
    inputs: Row = {"input_ids": window.input_ids, "token_type_ids": window.token_type_ids}
    return inputs if labels is None else inputs | {"labels": labels}


def fit(
    model: Any,
    rows: list[Row],
    held_out: list[Row],
    score_held_out: Callable[[list[Floats]], float],
    collate: Callable[[list[Row]], Any],
    out: Path,
    recipe: Recipe,
    loss: Callable[..., Any] | None = None,
) -> None:
    """Train the model in place. `score_held_out` gets the outputs for the held-out rows, in order; the epoch with the best
    score is kept. Without held-out rows, all epochs are trained."""
    freeze(model, recipe.layers)
    stopping = bool(held_out)
    trainer = _InOrder(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch,
            per_device_eval_batch_size=32,
            weight_decay=recipe.weight_decay,
            warmup_steps=math.ceil(recipe.warmup * recipe.epochs * len(rows) / recipe.batch),
            lr_scheduler_type="linear",
            train_sampling_strategy="group_by_length",  # less padding: half the time on offers with descriptions
            eval_strategy="epoch" if stopping else "no",
            save_strategy="epoch" if stopping else "no",
            save_total_limit=1,
            save_only_model=True,
            load_best_model_at_end=stopping,
            metric_for_best_model="f1" if stopping else None,
            logging_strategy="epoch",
            report_to=["tensorboard"],
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            seed=recipe.seed,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=held_out if stopping else None,
        data_collator=collate,
        compute_loss_func=loss,
        compute_metrics=lambda made: {"f1": score_held_out(list(made.predictions.astype(float)))},
        callbacks=[_Epochs()] + ([EarlyStoppingCallback(recipe.patience)] if stopping else []),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


class _InOrder(Trainer):
    """Batches of like lengths are for training: grouped, predictions would come in another order than the held-out rows."""

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return torch.utils.data.SequentialSampler(eval_dataset)


class _Epochs(TrainerCallback):
    """One line an epoch."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        epoch = f"epoch {logs.get('epoch', 0):.0f}/{args.num_train_epochs:.0f}"
        if "loss" in logs:
            print(f"{epoch}: loss {float(logs['loss']):.4f}", file=sys.stderr, flush=True)
        elif "eval_f1" in logs:
            print(f"{epoch}: held-out F1 {float(logs['eval_f1']):.2f}", file=sys.stderr, flush=True)


def freeze(model: Any, layers: int | None) -> None:
    """Leave only the top `layers` of the encoder, and what stands above it, to be trained; None leaves everything."""
    if layers is None:
        return
    encoder = model.base_model
    stack = next(m for m in encoder.modules() if isinstance(m, torch.nn.ModuleList))
    trained = {id(p) for layer in list(stack)[len(stack) - layers :] for p in layer.parameters()}
    trained |= {id(p) for name, p in encoder.named_parameters() if name.startswith("pooler.")}
    for parameter in encoder.parameters():
        parameter.requires_grad = id(parameter) in trained


def outputs(model: Any, tokenizer: Any, windows: Sequence[Window], batch: int = 32) -> list[Floats]:
    """The logits of each window, padding included. Windows of like length run together."""
    model.eval()
    device = model.device
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].input_ids))
    found: list[Any] = [None] * len(windows)
    for begin in range(0, len(order), batch):
        places = order[begin : begin + batch]
        inputs = tokenizer.pad([row(windows[i]) for i in places], return_tensors="pt").to(device)
        with torch.inference_mode():
            logits = model(**inputs).logits.double().cpu().numpy()
        for place, scores in zip(places, logits, strict=True):
            found[place] = scores
    return found


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def extraction_f1(
    gold: Sequence[LabelledOffer], records: Sequence[Extraction | Failure], schemas: Sequence[AttributeSchema]
) -> float:
    """F1 of the published protocol, in per cent."""
    asked = {o.category or "": [a.name for a in schema_for(o, schemas).attributes] for o in gold}
    cells = tabulate(gold, [from_record(r.to_dict()) for r in records], asked)
    return score(tallies(cells)["published"]).f1
