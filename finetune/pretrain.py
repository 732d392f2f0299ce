"""Train the bundled base model from scratch.

    python -m finetune pretrain --out runs/base            # results so far: finetune/LOG.md
    python -m finetune pretrain --out runs/try --steps 50  # a try

Architecture: Qwen3 (vLLM runs it natively). Tokenizer: byte-level BPE of its own, in which white space, digits and Han
characters stand alone, so that a word has the same tokens wherever it stands: what the model reads in a title is what
it writes in an answer, and copying is copying.
"""

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

from finetune.conversations import CHAT_TEMPLATE, IGNORED, encode, packed, synthetic_conversations

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# List items of a prompt, tags, words, single Han characters, single digits, single white space, and punctuation with one
# inner space (`": "`).
PIECES = r"\n- |</?[a-z]+>|\p{Han}|[^\W\d_\p{Han}]+|\p{N}|[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)?|\s|."
VALIDATION_SEED = 1_000_003
ROPE_THETA = 1e6  # as Qwen3 has it: with 10,000, most of a head turns too fast to match a word 300 tokens away


def train_tokenizer(vocabulary: int, conversations: int, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on prompts and answers, so that template and JSON are cheap in tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        m[key] for c in islice(synthetic_conversations(seed), conversations) for m in c for key in ("role", "content")
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


class Rows(IterableDataset[dict[str, list[int]]]):
    """Packed rows of the synthetic corpus. Workers draw from seeds of their own."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, block: int, seed: int, limit: int | None = None) -> None:
        self.tokenizer, self.block, self.seed, self.limit = tokenizer, block, seed, limit

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        worker = get_worker_info()
        seed = self.seed + (1_000_000_007 * (worker.id + 1) if worker else 0)
        examples = (encode(c, self.tokenizer) for c in synthetic_conversations(seed))
        pad: Any = self.tokenizer.pad_token_id
        return islice(packed(examples, self.block, pad), self.limit)


class AnswerTrainer(Trainer):
    """Computes logits only where an answer stands: over a vocabulary of thousands, the rest is half of a CPU's step."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        decoder = self.accelerator.unwrap_model(model)
        hidden = decoder.model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"])[0]
        labels = inputs["labels"][:, 1:]
        answered = labels != IGNORED
        logits = decoder.lm_head(hidden[:, :-1][answered])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[answered])
        if not return_outputs:
            return loss
        predicted = torch.full_like(inputs["labels"], IGNORED)
        predicted[:, :-1][answered] = logits.argmax(-1)
        return loss, {"predicted": predicted}


def stack(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def answer_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Under teacher forcing: the share of answer tokens, and of whole answers, that are predicted right."""
    labels = prediction.label_ids[:, 1:]
    predicted = prediction.predictions[:, :-1]
    answered = labels != IGNORED
    right = (predicted == labels) | ~answered
    begins = answered[:, 1:] & ~answered[:, :-1]
    answers = wholly = 0
    for row, starts in enumerate(begins):
        for start in starts.nonzero()[0] + 1:
            end = start
            while end < answered.shape[1] and answered[row, end]:
                end += 1
            answers += 1
            wholly += bool(right[row, start:end].all())
    return {"token_accuracy": float((right & answered).sum() / answered.sum()), "answer_accuracy": wholly / answers}


@torch.no_grad()
def plant_induction_heads(model: Qwen3ForCausalLM, sharpness: float = 2.0) -> None:
    """Start from weights that copy already: [A][B] … [A] -> [B].

    The circuit is that of Olsson et al. 2022 (https://arxiv.org/abs/2209.11895), which small models take tens of millions
    of tokens to find: a head of the first layer writes the token before into a subspace of its own, and a head of the
    second looks there for the current token and copies what stands after it. Training changes these weights like any
    other. Subspaces are drawn orthogonal, so that the rest of the network starts undisturbed; `sharpness` is the start
    of the query and key norms of both layers (1 is too flat to pick one token of hundreds).
    """
    width, head = model.config.hidden_size, model.config.head_dim
    half = head // 2
    basis = torch.linalg.qr(torch.randn(width, width)).Q
    constant, token, before = basis[:, 0], basis[:, 1 : 1 + head], basis[:, 1 + head : 1 + 2 * head]
    embedding = model.model.embed_tokens.weight
    embedding.normal_(0, width**-0.5).add_(constant / 2)  # every token has the constant: a query that is not content
    for layer in model.model.layers:  # as GPT-2: https://cdn.openai.com/better-language-models/
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.mul_((2 * model.config.num_hidden_layers) ** -0.5)
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    for attention in (first, second):
        attention.q_norm.weight.fill_(sharpness)
        attention.k_norm.weight.fill_(sharpness)
    # Position: the fastest rotations tell neighbours apart; a query turned back by one position finds the token before.
    fast, turn = torch.zeros(half), ROPE_THETA ** (-torch.arange(half) / half)
    fast[: half // 4] = 1
    first.q_proj.weight[:head] *= 0.1
    first.k_proj.weight[:head] *= 0.1
    first.q_proj.weight[:head] += torch.outer(torch.cat([fast * turn.cos(), -fast * turn.sin()]), constant)
    first.k_proj.weight[:head] += torch.outer(torch.cat([fast, 0 * fast]), constant)
    first.v_proj.weight[:head] = token.T
    first.o_proj.weight[:, :head] = before / 8  # the norm of a token after RMSNorm is 16, in its embedding 1
    # Content: the slow rotations hardly turn over a prompt.
    slow = (torch.arange(head) % half >= half // 3).float()[:, None]
    second.q_proj.weight[:head] = token.T * slow
    second.k_proj.weight[:head] = before.T * slow
    copied = torch.linalg.qr(torch.randn(width, head)).Q
    second.v_proj.weight[:head] = copied.T
    second.o_proj.weight[:, :head] = copied / 4


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")] = Path("runs/base"),
    start: Annotated[Path | None, typer.Option(help="Go on from this model's weights and tokenizer.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1850,
    rows: Annotated[int, typer.Option(help="Packed rows a step.")] = 8,
    block: Annotated[int, typer.Option(help="Tokens a row.")] = 512,
    vocabulary: int = 8192,
    hidden: int = 256,
    layers: int = 4,
    heads: int = 4,
    intermediate: int = 768,
    context: Annotated[int, typer.Option(help="Positions the model declares.")] = 4096,
    learning_rate: float = 2e-3,
    seed: int = 1,
    evaluate_every: int = 250,
    version: Annotated[int, typer.Option(help="The model is base@VERSION in provenance.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that prepare data; 0 on two cores.")] = 0,
) -> None:
    """Train tokenizer and model on the synthetic corpus; a killed run resumes from its last checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_dir = out / "tokenizer"
    if start is None and not tokenizer_dir.exists():
        train_tokenizer(vocabulary, conversations=8_000, seed=seed).save_pretrained(tokenizer_dir)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start or tokenizer_dir)
    torch.manual_seed(seed)
    if start:
        model = Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32, use_cache=False)
    else:
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=64,
            intermediate_size=intermediate,
            max_position_embeddings=context,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=False,
        )
        model = Qwen3ForCausalLM(config)
        plant_induction_heads(model)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters", flush=True)
    on_gpu = torch.cuda.is_available()
    trainer = AnswerTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=rows,
            per_device_eval_batch_size=rows,
            learning_rate=learning_rate,
            adam_beta2=0.95,
            weight_decay=0.1,
            warmup_steps=max(steps // 30, 10),
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            bf16=on_gpu,
            logging_steps=25,
            eval_strategy="steps",
            eval_steps=evaluate_every,
            save_steps=evaluate_every,
            save_total_limit=2,
            dataloader_num_workers=workers,
            remove_unused_columns=False,
            include_num_input_tokens_seen=True,
            report_to=["tensorboard"],
            seed=seed,
            disable_tqdm=True,
        ),
        train_dataset=Rows(tokenizer, block, seed),
        eval_dataset=Rows(tokenizer, block, VALIDATION_SEED, limit=32),
        data_collator=stack,
        compute_metrics=answer_accuracy,
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
