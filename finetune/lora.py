"""An adapter for a category with few labels: PEFT on exactly the prompts that the extractor renders.

    shelfwise finetune lora --data labels.jsonl --schema prompts/schemas/shoes.yaml --out adapters/shoes

writes adapters/shoes/1, and the next time adapters/shoes/2; checkpoints of an unfinished one are in adapters/shoes/training.

transformers' Trainer trains. What it is scored by on held-out offers is extraction itself: generated, under the constraint.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import peft
import torch
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from eval.baselines.training import freeze
from extractor.adapters import CARD, LABELS, TEMPLATE, Adapter, Card, check_adapter, fingerprint, next_version
from extractor.config import Settings, make_extractor
from extractor.engines.huggingface import HuggingFaceEngine, load
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.io import read_labelled
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key
from finetune.conversations import Example
from finetune.dataset import batches, divided
from finetune.trainer import AdapterTrainer, Allocate, Steps, Stream

Method = Literal["lora", "rslora", "dora", "adalora", "prefix", "full"]
METHODS: tuple[Method, ...] = get_args(Method)
SERVED = ("lora", "rslora", "full")  # by vLLM; the others by transformers only
GOES_ON = ("lora", "rslora", "dora")
OLD = 100  # old labels that are scored before and after
STEPS, MOST = 260, 40  # least steps, most epochs
FEWEST = 10  # labels below which demonstrations are the better use of them


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters. `rank` is that of LoRA and its kin, and the number of tokens of a prefix; updates are scaled by
    `alpha` / `rank`. `held_out`: share of the labels that is not learned from, and by whose extraction training stops early;
    with hundreds of labels it costs more than it saves (LOG.md). `paraphrases`: templates that ask in other words. `replay`: of
    an adapter that goes on, so many of its old labels for each new one. `freeze`: with `full`, only the last so many layers
    learn. `fgm`: size of an adversarial step on embeddings (Miyato et al. 2017, https://arxiv.org/abs/1605.07725), 0 for none."""

    method: Method = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    learning_rate: float = 2e-3
    epochs: int = 8
    batch: int = 8
    accumulate: int = 1
    warmup: float = 0.1
    weight_decay: float = 0.0
    held_out: float = 0.0
    replay: float = 0.5
    patience: int = 4
    augment: tuple[str, ...] = ("swap", "order", "drop")
    paraphrases: tuple[str, ...] = ()
    freeze: int | None = None
    fgm: float = 0.0
    checkpointing: bool = False
    four_bit: bool = False
    seed: int = 0


def recipe_for(labels: int, epochs: float = 1.0, **changes: Any) -> Recipe:
    """The recipe for so many labels; `epochs` multiplies its own. Few labels are passed over more often (LOG.md)."""
    own = Recipe(**changes)
    passes = min(max(math.ceil(STEPS * own.batch / max(labels, 1)), own.epochs), MOST)
    return replace(own, epochs=max(1, round(passes * epochs)))


def tune(
    labels: Sequence[LabelledOffer],
    schemas: Sequence[AttributeSchema],
    settings: Settings,
    out: Path,
    recipe: Recipe,
    report: str = "tensorboard",
    scored: Callable[[int, float], None] = lambda step, f1: None,
    start: Adapter | None = None,
) -> tuple[Path, Card]:
    """Train on the labels and write the next version in `out`: what `--adapter` takes (of `full`, `--model`). A killed training
    goes on. `labels` are what `dataset.checked` or `complete` made; `scored` hears of each F1 on held-out offers, and may raise.
    `start`: an adapter to go on from; some of its labels are replayed, and up to OLD of the others scored before and after.
    Raises InputError where it cannot be saved, and where `start` does not fit; AdapterError where that is of another base."""
    training, held_out = divided(labels, recipe.held_out, recipe.seed)
    base = settings.model or "base"
    if start and start.card:  # its shape stays as it is
        own = {k: v for k, v in start.card.recipe.items() if k in ("method", "rank", "alpha", "dropout")}
        recipe = replace(recipe, **own)
    old = _old_labels(start, base, schemas, labels) if start else []
    mixed = Random(recipe.seed).sample(old, len(old))
    replayed = min(round(recipe.replay * len(training)), len(old))
    again, kept_back = mixed[:replayed], mixed[replayed:][:OLD]
    learned = [*old, *training]
    torch.manual_seed(recipe.seed)
    model, tokenizer = _loaded(base, recipe, start)
    engine = HuggingFaceEngine.around(model, tokenizer, model_reference(base))
    # Known values and demonstrations come from what is learned from: held-out offers are as new as any.
    extractor, *paraphrases = (
        make_extractor(engine, settings.model_copy(update={"template": template}), schemas, learned)
        for template in (settings.template, *recipe.paraphrases)
    )
    training = [*training, *again]
    # Named by all that goes in: the same command goes on where it was killed, another one begins anew.
    rows = [item.model_dump_json() for part in (training, held_out, schemas, old) for item in part]
    templates = [one.asking.template.sha256 for one in (extractor, *paraphrases)]
    prompting = [templates, settings.k, settings.known]
    work = (
        out
        / "training"
        / _key(rows, prompting, asdict(recipe), fingerprint(resolve_model(base)), start and str(start.folder))
    )
    steps = recipe.epochs * math.ceil(math.ceil(len(training) / recipe.batch) / recipe.accumulate)
    trainer = AdapterTrainer(
        model=model,
        args=_arguments(recipe, work, steps, bool(held_out), report),
        train_dataset=Stream(partial(_batches, extractor, paraphrases, tokenizer, training, recipe)),
        eval_dataset=list(held_out) if held_out else None,
        data_collator=lambda items: items[0],
        callbacks=[Steps()] + ([EarlyStoppingCallback(recipe.patience)] if held_out else []),
    )
    trainer.extractor, trainer.schemas, trainer.fgm, trainer.scored = extractor, schemas, recipe.fgm, scored
    trainer.remove_callback(PrinterCallback)
    if recipe.method == "adalora":
        trainer.add_callback(Allocate())
    before = trainer.extraction_score(kept_back) if kept_back else None
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    scores: dict[str, Any] = {"f1": trainer.state.best_metric, "offers": len(held_out)} if held_out else {}
    if start:
        after = trainer.extraction_score(kept_back) if kept_back else None
        scores["old"] = {"adapter": start.reference, "offers": len(kept_back), "before": before, "after": after}
    rows_learned = "".join(o.model_dump_json() + "\n" for o in learned)
    asked = {o.category for o in learned}
    card = Card(
        name=out.name,
        version=next_version(out),
        base=model_reference(base),
        base_fingerprint=fingerprint(resolve_model(base)),
        schemas={s.category or "": s.reference for s in schemas if len(schemas) == 1 or s.category in asked},
        template=extractor.asking.template.reference,
        template_sha256=extractor.asking.template.sha256,
        k=settings.k,
        known=settings.known,
        labels=len(learned),
        labels_sha256=hashlib.sha256(rows_learned.encode()).hexdigest(),
        recipe=asdict(recipe),
        scores=scores,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return saved(model, tokenizer, card, rows_learned, extractor.asking.template.source, out), card


def _old_labels(
    start: Adapter, base: str, schemas: Sequence[AttributeSchema], labels: Sequence[LabelledOffer]
) -> list[LabelledOffer]:
    """What the adapter learned from, without what is labelled anew."""
    if start.card is None or start.card.recipe["method"] not in GOES_ON:
        raise InputError(f"{start.folder}: no adapter of `finetune lora` that can go on ({', '.join(GOES_ON)})")
    check_adapter(start.folder, resolve_model(base))
    new = {offer.id for offer in labels}
    old = [offer for offer in read_labelled(start.folder / LABELS) if offer.id not in new]
    served = {category_key(schema.category) for schema in schemas}
    if lost := sorted({o.category or "" for o in old if category_key(o.category) not in served | {""}}):
        raise InputError(
            f"{start.folder}: learned {lost[0]!r}, for which there is no schema; --schema takes a folder of them"
        )
    return old


def _key(*inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def saved(model: Any, tokenizer: Any, card: Card, labels: str, template: str, out: Path) -> Path:
    """Written aside and renamed: a version is whole or not there."""
    aside, folder = out / f".{card.version}", out / str(card.version)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside)
        (aside / LABELS).write_text(labels, encoding="utf-8")
        if card.recipe["method"] == "full":
            tokenizer.save_pretrained(aside)
            (aside / "shelfwise.json").write_text(json.dumps({"name": card.name, "version": card.version}) + "\n")
        else:
            (aside / "README.md").unlink(missing_ok=True)  # PEFT's form, not filled in
            (aside / TEMPLATE).write_text(template, encoding="utf-8")
            (aside / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise InputError(
            f"{folder}: cannot be saved: {error}; earlier versions are as they were, and the same command goes on from its last"
            " checkpoint"
        ) from error
    shutil.rmtree(out / "training", ignore_errors=True)
    return folder


def _loaded(base: str, recipe: Recipe, start: Adapter | None = None) -> tuple[Any, Any]:
    """The base model, ready to learn by the method."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if recipe.four_bit and device == "cpu":
        raise InputError("--four-bit needs bitsandbytes and a GPU")
    model, tokenizer = load(base, device, four_bit=recipe.four_bit, whole=recipe.method == "full")
    if start:
        model = peft.PeftModel.from_pretrained(model, start.folder, is_trainable=True)
    elif recipe.method == "full":
        freeze(model, recipe.freeze)
    else:
        model = peft.get_peft_model(model, _configuration(recipe))
    if recipe.checkpointing:
        model.enable_input_require_grads()
    return model, tokenizer


def _configuration(recipe: Recipe) -> Any:
    common: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if recipe.method == "prefix":
        return peft.PrefixTuningConfig(num_virtual_tokens=recipe.rank, **common)
    common |= {"lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout, "target_modules": "all-linear"}
    if recipe.method == "adalora":
        return peft.AdaLoraConfig(target_r=recipe.rank, init_r=recipe.rank * 3 // 2, total_step=1, **common)
    return peft.LoraConfig(
        r=recipe.rank, use_rslora=recipe.method == "rslora", use_dora=recipe.method == "dora", **common
    )


def _batches(
    extractor: Extractor,
    paraphrases: Sequence[Extractor],
    tokenizer: Any,
    labels: Sequence[LabelledOffer],
    recipe: Recipe,
) -> Iterator[list[Example]]:
    return batches(
        extractor,
        tokenizer,
        labels,
        epochs=recipe.epochs,
        # A prefix is as many keys more than queries, which rows of several conversations do not allow.
        batch=1 if recipe.method == "prefix" else recipe.batch,
        augment=recipe.augment,
        paraphrases=paraphrases,
        seed=recipe.seed,
    )


def _multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself: a step then takes seven tenths of the time (LOG.md)."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _arguments(recipe: Recipe, work: Path, steps: int, stopping: bool, report: str) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    epoch = max(1, steps // recipe.epochs)
    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=1,  # an item of the stream is a batch
        gradient_accumulation_steps=recipe.accumulate * (recipe.batch if recipe.method == "prefix" else 1),
        gradient_checkpointing=recipe.checkpointing,
        learning_rate=recipe.learning_rate,
        warmup_steps=math.ceil(recipe.warmup * steps),
        lr_scheduler_type="cosine",
        weight_decay=recipe.weight_decay,
        eval_strategy="steps" if stopping else "no",
        eval_steps=epoch,
        save_strategy="steps",
        save_steps=epoch,
        save_total_limit=1,
        load_best_model_at_end=stopping,
        metric_for_best_model="f1" if stopping else None,
        logging_steps=epoch,
        report_to=report,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        bf16=on_gpu or _multiplies_bfloat16(),
        use_cpu=not on_gpu,  # bf16 is refused otherwise
        seed=recipe.seed,
        disable_tqdm=True,
    )
