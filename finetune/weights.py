"""The first weights of the base model: what a small encoder knows of words and of their context, and a circuit that copies.

MiniLM (`all-MiniLM-L6-v2`) is BERT: layer norm behind each sublayer, learned positions, GELU. OPT with
`do_layer_norm_before=False` is that network under a causal mask, and vLLM runs it. So MiniLM's first layers become a decoder's,
and one layer more is new: the *pointer*, whose heads look for what an answer copies. An induction circuit
(https://arxiv.org/abs/2209.11895), which small models take tens of millions of tokens to find, is planted:

- words take up `word_embed_proj_dim` of the hidden dimensions; in some of the others, positions turn as clock hands do, and by
  them two heads of the first layer find the two tokens before, whose codes they write into dimensions of their own;
- what the pointer needs of a hidden state (its token, the two before it) is read by ridge regression on prompts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import OPTForCausalLM, PreTrainedTokenizerFast

HEAD = 32  # dimensions of a head of MiniLM, and of a token's code
CLOCK = 0.6  # length of a clock hand
SHARP = 25.0  # logit of the token that a head of the first layer looks at
WRITTEN = 8.0  # length of the codes that it writes; a word's embedding has about 10
MATCH = 40.0  # logit of a token that the pointer finds, were the regression exact
COPIED = 60.0  # length of what it copies, were all heads to look at one token
RIDGE = 3.0


@torch.no_grad()
def plant(
    model: OPTForCausalLM,
    encoder: Any,
    reader: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
) -> None:
    """Fill `model`, which has layers of `encoder`'s size and `tokenizer`'s vocabulary. `reader` is the tokenizer of `encoder`;
    `prompts` are token ids, some 100,000 in all, on which the regressions rest."""
    decoder = model.model.decoder
    words, place, hands = embeddings(encoder, reader, tokenizer)
    basis = torch.linalg.svd(words, full_matrices=True).Vh
    spoken, free = basis[: model.config.word_embed_proj_dim], basis[model.config.word_embed_proj_dim :]
    codes = _place_words(decoder, words, spoken)
    clock, before, before_that = free[:HEAD], free[HEAD : 2 * HEAD], free[2 * HEAD : 3 * HEAD]
    frequencies = 0.05 + 3.0 * torch.rand(HEAD // 2)
    _place_positions(decoder, place, hands, free, clock, frequencies)
    for mine, theirs in zip(decoder.layers[:-1], encoder.encoder.layer, strict=False):
        _take_over(mine, theirs)
    _look_back(decoder, spoken, codes, clock, frequencies, (before, before_that))
    _point(model, codes, prompts)


def embeddings(encoder: Any, reader: Any, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor, Tensor]:
    """As the first layer of `encoder` would see them: tokens x hidden, the mean of the pieces that a token's text has (zeros for
    those without text: white space, parts of a character), less their mean; that mean; positions x hidden."""
    table, norm = encoder.embeddings, encoder.embeddings.LayerNorm
    word, kind = table.word_embeddings.weight, table.token_type_embeddings.weight[0]
    hands = table.position_embeddings.weight + kind
    deviation = (word + hands[: len(hands) // 2].mean(0)).std(-1, unbiased=False, keepdim=True)

    def normed(x: Tensor, deviation: Tensor) -> Tensor:
        return norm.weight * (x - x.mean(-1, keepdim=True)) / deviation

    pieces, hands = normed(word, deviation), normed(hands, deviation.mean()) + norm.bias
    texts = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
    texts = ["" if "\ufffd" in t or t in tokenizer.all_special_tokens else t for t in texts]
    found = [reader.encode(t, add_special_tokens=False) if t else [] for t in texts]
    words = torch.stack([pieces[ids].mean(0) if ids else torch.zeros(len(kind)) for ids in found])
    said = torch.tensor([bool(ids) for ids in found])
    mean = words[said].mean(0)
    words[said] -= mean
    return words, mean, hands


def _place_words(decoder: Any, words: Tensor, spoken: Tensor) -> Tensor:
    """Embeddings by the principal components `spoken`. Returns codes x width: what makes a token's code of its embedding; the
    components have the square root of their weight in it, so that rare differences count."""
    said = words.any(1)
    embedded = words @ spoken.T
    spread = embedded[said].std(0)
    embedded[~said] = torch.randn(int((~said).sum()), len(spoken)) * spread  # as far apart as words are
    scale = embedded.norm(dim=-1).mean()
    embedded += 0.15 * torch.randn_like(embedded) * spread  # "Men" is not "men"
    embedded /= scale
    decoder.embed_tokens.weight.copy_(embedded)
    decoder.project_in.weight.copy_(spoken.T * scale)
    codes = torch.linalg.qr(torch.randn(len(spoken), len(spoken))).Q / (spread / scale).sqrt()
    return codes / (embedded @ codes.T).norm(dim=-1).mean()


def _place_positions(
    decoder: Any, mean: Tensor, hands: Tensor, free: Tensor, clock: Tensor, frequencies: Tensor
) -> None:
    """Half a position of MiniLM for each token, as every other one is white space; past the end of its table the second half over
    and over. In the dimensions `clock` hands of the given frequencies turn."""
    table = decoder.embed_positions.weight[decoder.embed_positions.offset :]
    position, last = torch.arange(len(table)), len(hands) - 2
    at = position / 2
    at = torch.where(at < last, at, last // 2 + (at - last) % (last // 2))
    part = (at - at.floor())[:, None]
    placed = (1 - part) * hands[at.long()] + part * hands[at.long() + 1] + mean
    angle = position[:, None] * frequencies
    table.copy_(placed - placed @ free.T @ free + CLOCK * torch.cat([angle.cos(), angle.sin()], 1) @ clock)


def _take_over(mine: Any, theirs: Any) -> None:
    own, attention, output = mine.self_attn, theirs.attention, theirs.output
    for to, source in (
        (own.q_proj, attention.self.query),
        (own.k_proj, attention.self.key),
        (own.v_proj, attention.self.value),
        (own.out_proj, attention.output.dense),
        (mine.self_attn_layer_norm, attention.output.LayerNorm),
        (mine.fc1, theirs.intermediate.dense),
        (mine.fc2, output.dense),
        (mine.final_layer_norm, output.LayerNorm),
    ):
        to.load_state_dict(source.state_dict())


def _rows(head: int) -> slice:
    return slice(head * HEAD, (head + 1) * HEAD)


def _look_back(
    decoder: Any, spoken: Tensor, codes: Tensor, clock: Tensor, frequencies: Tensor, written: Sequence[Tensor]
) -> None:
    """The two heads of the first layer that do least find the token before and the one before that, and write their codes."""
    attention = decoder.layers[0].self_attn
    weight = [
        float((attention.out_proj.weight[:, _rows(h)] @ attention.v_proj.weight[_rows(h)]).norm())
        for h in range(attention.num_heads)
    ]
    gain = (SHARP * HEAD**0.5 / len(frequencies)) ** 0.5 / CLOCK
    reading = torch.linalg.pinv(decoder.project_in.weight)  # of a word's embedding from the hidden state
    for distance, (head, place) in enumerate(zip(torch.tensor(weight).argsort().tolist(), written, strict=False), 1):
        cos, sin = (distance * frequencies).cos().diag(), (distance * frequencies).sin().diag()
        turned = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias[_rows(head)] = 0
        attention.q_proj.weight[_rows(head)] = gain * turned @ clock
        attention.k_proj.weight[_rows(head)] = gain * clock
        short = codes[:HEAD]
        length = (decoder.embed_tokens.weight @ short.T).norm(dim=-1).mean()
        attention.v_proj.weight[_rows(head)] = short @ reading / length
        attention.out_proj.weight[:, _rows(head)] = WRITTEN * place.T


def _point(model: OPTForCausalLM, codes: Tensor, prompts: Sequence[Sequence[int]]) -> None:
    """The last layer. Its first heads find what stood before behind the same token, and behind the token before that; all of
    them copy a part of the code of the token they look at, and the output layer reads it."""
    decoder, short = model.model.decoder, codes[:HEAD]
    layer, embedded = decoder.layers[-1], decoder.embed_tokens.weight
    short = short / (embedded @ short.T).norm(dim=-1).mean()
    tokens = [torch.tensor(p) for p in prompts]
    states = torch.cat([_before(model, layer, t)[2:] for t in tokens])
    states = torch.cat([states, torch.ones(len(states), 1)], 1)
    gram = states.T @ states + RIDGE * torch.eye(states.shape[1])

    def read(wanted: Tensor) -> tuple[Tensor, Tensor]:
        solved = torch.linalg.solve(gram, states.T @ wanted).T
        return solved[:, :-1], solved[:, -1]

    this, last, last_but_one = (
        read(embedded[torch.cat([t[2 - back : len(t) - back] for t in tokens])] @ short.T) for back in range(3)
    )
    whole = embedded[torch.cat([t[2:] for t in tokens])] @ codes.T
    copied, copied_bias = read(whole - whole.mean(0))  # a head that looks everywhere says nothing
    attention, width = layer.self_attn, len(codes)
    outputs = torch.linalg.qr(torch.randn(len(layer.self_attn_layer_norm.weight), width)).Q
    gain = (MATCH * HEAD**0.5) ** 0.5
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, layer.fc2):
        torch.nn.init.zeros_(linear.bias)
    for head in range(attention.num_heads):
        rows = _rows(head)
        if head < 4:
            turn = torch.linalg.qr(torch.randn(HEAD, HEAD)).Q
            for projection, (weight, bias) in zip(
                (attention.q_proj, attention.k_proj), (this, last) if head < 2 else (last, last_but_one), strict=True
            ):
                projection.weight[rows] = gain * turn @ weight
                projection.bias[rows] = gain * turn @ bias
        else:
            attention.q_proj.weight[rows] = torch.randn(HEAD, len(outputs)) * 0.5 * len(outputs) ** -0.5
            attention.k_proj.weight[rows] = attention.q_proj.weight[rows]
        part = _rows(head % (width // HEAD))
        attention.v_proj.weight[rows], attention.v_proj.bias[rows] = copied[part], copied_bias[part]
        attention.out_proj.weight[:, rows] = COPIED * outputs[:, part]
    layer.fc1.load_state_dict(decoder.layers[-2].fc1.state_dict())
    layer.fc2.weight.copy_(0.1 * decoder.layers[-2].fc2.weight)
    decoder.project_out.weight.copy_(0.5 * codes.T @ outputs.T)


def _before(model: OPTForCausalLM, layer: Any, tokens: Tensor) -> Tensor:
    """Hidden states that enter `layer`: tokens x hidden."""
    entering: list[Tensor] = []
    hook = layer.self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: entering.append(kwargs["hidden_states"][0]), with_kwargs=True
    )
    model.model(input_ids=tokens[None])
    hook.remove()
    return entering[0]
