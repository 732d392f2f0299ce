"""The base model before its training: tokenizer, architecture, and weights that begin with what need not be learned.

    python -m finetune start --out runs/start

Architecture: Qwen3 (vLLM runs it natively). Tokenizer: byte-level BPE of its own, in which white space, digits and Han
characters stand alone, so that a word has the same tokens wherever it stands: what the model reads in a title is what
it writes in an answer, and copying is copying. Frequent English words are tokens of their own, whether the corpus has them or
not. Weights: what words mean comes from MiniLM (`meanings`), copying from a planted circuit (`plant_induction_heads`).
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from eval.baselines.encoder import encoder_folder
from finetune.conversations import CHAT_TEMPLATE, synthetic_conversations
from finetune.embedding import embedded

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# List items of a prompt, tags, words, single Han characters, single digits, single white space, and punctuation with one
# inner space (`": "`).
PIECES = r"\n- |</?[a-z]+>|\p{Han}|[^\W\d_\p{Han}]+|\p{N}|[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)?|\s|."
ROPE_THETA = 1e6  # as Qwen3 has it: with 10,000, most of a head turns too fast to match a word 300 tokens away


def start(
    out: Annotated[Path, typer.Option(help="Folder for the model and its tokenizer.")] = Path("runs/start"),
    pieces: Annotated[int, typer.Option(help="Tokens that BPE learns from the corpus.")] = 6144,
    words: Annotated[int, typer.Option(help="Whole words of MiniLM's vocabulary, the most frequent first.")] = 9000,
    conversations: Annotated[int, typer.Option(help="Conversations of the corpus that the tokenizer reads.")] = 8000,
    hidden: int = 256,
    layers: int = 4,
    heads: int = 4,
    intermediate: int = 768,
    context: Annotated[int, typer.Option(help="Positions the model declares.")] = 4096,
    seed: int = 1,
) -> None:
    """Write tokenizer and first weights; `pretrain --start` goes on from there."""
    tokenizer = build_tokenizer(pieces, frequent_words(words) if words else [], conversations, seed)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
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
    plant_induction_heads(model, meanings(tokenizer, hidden - 1 - 2 * config.head_dim) if words else None)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(
        f"wrote {out}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters, {len(tokenizer)} tokens"
    )


# --- tokenizer --------------------------------------------------------------------------------------------------------


def build_tokenizer(pieces: int, words: Sequence[str], conversations: int, seed: int) -> PreTrainedTokenizerFast:
    """BPE trained on prompts and answers, so that template and JSON are cheap in tokens; then `words`, and the words of three
    conversations or more, as tokens that no merge has to make (`ignore_merges`)."""
    texts = [
        m[key] for c in islice(synthetic_conversations(seed), conversations) for m in c for key in ("role", "content")
    ]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if words:
        learned = json.loads(tokenizer.to_str())["model"]
        vocabulary = dict(learned["vocab"])
        for word in [*_used(texts, split), *words, *(w.capitalize() for w in words)]:
            vocabulary.setdefault(word, len(vocabulary))
        merges = [tuple(pair) for pair in learned["merges"]]
        tokenizer.model = models.BPE(vocabulary, merges, ignore_merges=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _used(texts: Sequence[str], split: Any) -> Iterator[str]:
    """The words of three messages or more: coined ones stay out."""
    counts = Counter(
        word
        for text in texts
        for word in {piece for piece, _ in split.pre_tokenize_str(text)}
        if len(word) > 1 and word.isascii() and word.isalpha()
    )
    return (word for word, n in counts.most_common() if n > 2)


def frequent_words(n: int) -> list[str]:
    """The first `n` whole words of MiniLM's vocabulary, which lists them by frequency (it is BERT's)."""
    return [w for w in minilm_words() if len(w) > 2][:n]


def minilm_words() -> list[str]:
    vocabulary = (encoder_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [w for w in vocabulary if w.isascii() and w.isalpha()]


# --- weights ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def meanings(tokenizer: PreTrainedTokenizerFast, width: int) -> torch.Tensor:
    """tokens x `width`: MiniLM's sentence embedding of each token's text, by its principal components; mean norm 1. What has no
    text of its own (white space, parts of a character) has zeros. The idea is WECHSEL's (https://arxiv.org/abs/2112.06598):
    a new vocabulary begins with embeddings that another model learned."""
    texts = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
    texts = ["" if "\ufffd" in t or t in SPECIAL_TOKENS else t for t in texts]
    vectors = embedded(texts)
    said = torch.tensor([bool(t) for t in texts])
    vectors[said] -= vectors[said].mean(0)
    vectors[~said] = 0
    components = torch.linalg.svd(vectors[said], full_matrices=False).Vh[:width]
    projected = vectors @ components.T
    return projected / projected[said].norm(dim=-1).mean()


@torch.no_grad()
def plant_induction_heads(model: Qwen3ForCausalLM, meaning: torch.Tensor | None = None, sharpness: float = 2.0) -> None:
    """Start from weights that copy already: [A][B] … [A] -> [B].

    The circuit is that of Olsson et al. 2022 (https://arxiv.org/abs/2209.11895), which small models take tens of millions
    of tokens to find: a head of the first layer writes the token before into a subspace of its own, and a head of the
    second looks there for the current token and copies what stands after it. Training changes these weights like any
    other. Subspaces are drawn orthogonal, so that the rest of the network starts undisturbed; `meaning`, if given, fills the
    one that the circuit leaves free. `sharpness` is the start of the query and key norms of both layers (1 is too flat to
    pick one token of hundreds).
    """
    width, head = model.config.hidden_size, model.config.head_dim
    half = head // 2
    basis = torch.linalg.qr(torch.randn(width, width)).Q
    constant, token, before = basis[:, 0], basis[:, 1 : 1 + head], basis[:, 1 + head : 1 + 2 * head]
    embedding = model.model.embed_tokens.weight
    coordinates = torch.randn_like(embedding) * width**-0.5
    coordinates[:, 0] = 0.5  # every token has the constant: a query that is not content
    if meaning is not None:
        coordinates[:, 1 + head : 1 + 2 * head] = 0
        coordinates[:, 1 + 2 * head :] = 0.7 * meaning
    embedding.copy_(coordinates @ basis.T)
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
