"""The base model before its training: tokenizer, architecture, and weights that begin with what need not be learned.

    python -m finetune start --out runs/start

Tokenizer: byte-level BPE of its own, in which white space, digits and Han characters stand alone, so that a word has the same
tokens wherever it stands: what the model reads in a title is what it writes in an answer, and copying is copying. Frequent
English words are tokens of their own, whether the corpus has them or not. Architecture and weights: weights.py.
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
from transformers import AutoModel, AutoTokenizer, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from finetune.conversations import CHAT_TEMPLATE, encode, synthetic_conversations
from finetune.weights import plant

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
READ = 250  # conversations that the first weights are fitted on
# List items of a prompt, tags, words, single Han characters, single digits, single white space, and punctuation with one
# inner space (`": "`).
PIECES = r"\n- |</?[a-z]+>|\p{Han}|[^\W\d_\p{Han}]+|\p{N}|[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)?|\s|."


def start(
    out: Annotated[Path, typer.Option(help="Folder for the model and its tokenizer.")] = Path("runs/start"),
    pieces: Annotated[int, typer.Option(help="Tokens that BPE learns from the corpus.")] = 6144,
    words: Annotated[int, typer.Option(help="Whole words of MiniLM's vocabulary, the most frequent first.")] = 9000,
    conversations: Annotated[int, typer.Option(help="Conversations of the corpus that the tokenizer reads.")] = 8000,
    layers: Annotated[int, typer.Option(help="Layers taken from MiniLM; one more points.")] = 3,
    width: Annotated[int, typer.Option(help="Dimensions of a token's embedding.")] = 256,
    context: Annotated[int, typer.Option(help="Positions.")] = 3072,
    seed: int = 1,
) -> None:
    """Write tokenizer and first weights; `pretrain --start` goes on from there."""
    tokenizer = build_tokenizer(pieces, frequent_words(words) if words else [], conversations, seed)
    torch.manual_seed(seed)
    reader, encoder = AutoTokenizer.from_pretrained(_minilm()), AutoModel.from_pretrained(_minilm()).eval()
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=encoder.config.hidden_size,
        num_hidden_layers=layers + 1,
        num_attention_heads=encoder.config.num_attention_heads,
        ffn_dim=encoder.config.intermediate_size,
        activation_function=encoder.config.hidden_act,
        word_embed_proj_dim=width,
        max_position_embeddings=context,
        do_layer_norm_before=False,
        dropout=0.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    model = OPTForCausalLM(config).eval()
    prompts = [encode(c, tokenizer).input_ids for c in islice(synthetic_conversations(seed), READ)]
    plant(model, encoder, reader, tokenizer, [p[:1024] for p in prompts])
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


def _minilm() -> Path:
    from eval.baselines.encoder import encoder_folder

    return encoder_folder()


def frequent_words(n: int) -> list[str]:
    """The first `n` whole words of MiniLM's vocabulary, which lists them by frequency (it is BERT's)."""
    vocabulary = (_minilm() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [w for w in vocabulary if len(w) > 2 and w.isascii() and w.isalpha()][:n]
