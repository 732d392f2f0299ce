"""Training text: exactly the prompts that the extractor renders, with the answers it expects.

Loss falls on every answer of a conversation, and there on what the model decides. A prompt with k demonstrations
therefore teaches k + 1 times, once for each number of demonstrations from 0 to k.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from extractor.answer import ITEM_SEPARATOR, KEY_SEPARATOR, write_answer
from extractor.prompts import Message, Template, load_template, neutralize
from finetune.corpus import Episode, episode

IGNORED = -100  # the label that torch's cross-entropy skips

# ChatML, as Qwen writes it: https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation, and labels that are IGNORED where nothing is decided."""

    input_ids: list[int]
    labels: list[int]


def conversation(item: Episode, template: Template) -> list[Message]:
    """The episode as a chat: all offers but the last are demonstrations, the last one is answered too."""
    *demonstrations, last = item.offers
    values = {k: [neutralize(v) for v in vs] for k, vs in last.attributes.items()}
    answer: Message = {"role": "assistant", "content": write_answer(item.schema, values)}
    known = {o.id: item.known.get(o.id, {}) for o in item.offers}
    return [*template.render(item.schema, last, demonstrations, lambda _, offer: known[offer.id]), answer]


def encode(messages: list[Message], tokenizer: Any) -> Example:
    """Tokens of a chat in ChatML. Cut at its special tokens, pieces encode as the whole would."""
    input_ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        head = tokenizer.encode(f"<|im_start|>{message['role']}\n", add_special_tokens=False)
        body = tokenizer(message["content"], add_special_tokens=False, return_offsets_mapping=True)
        tail = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
        ids = body["input_ids"]
        taught = decided(message["content"]) if message["role"] == "assistant" else []
        input_ids += head + ids + tail
        labels += [IGNORED] * len(head) + answer_labels(ids, body["offset_mapping"], taught) + [IGNORED] * len(tail)
    return Example(input_ids, labels)


def decided(answer: str) -> list[range]:
    """Characters of an answer that a model decides, attribute by attribute: from a key's closing quote (its token may open the
    value) to the one after the value (which ends it). The constraint forces all others, so there is nothing to learn in them."""
    decoder, position = json.JSONDecoder(), 0
    found: list[range] = []
    while position < len(answer) - 1:
        position += 1 if position == 0 else len(ITEM_SEPARATOR)
        _, position = decoder.raw_decode(answer, position)
        begin = position - 1
        _, position = decoder.raw_decode(answer, position + len(KEY_SEPARATOR))
        found.append(range(begin, position + 1))
    return found


def answer_labels(ids: list[int], spans: list[tuple[int, int]], taught: list[range]) -> list[int]:
    """Token ids (`spans` are their characters) as labels, IGNORED where they touch nothing taught."""
    characters = {i for r in taught for i in r}
    return [
        token if not characters.isdisjoint(range(*span)) else IGNORED for token, span in zip(ids, spans, strict=True)
    ]


def synthetic_conversations(seed: int) -> Iterator[list[Message]]:
    """Conversations without end, with 0 to 10 demonstrations, in the shipped templates."""
    rng = Random(seed)
    templates = {"en": load_template("extract"), "zh": load_template("extract-zh")}
    while True:
        item = episode(rng, rng.choice((1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 6, 8, 11)))
        language = item.language if rng.random() < 0.8 else "en"
        yield conversation(item, templates[language])


def packed(examples: Iterator[Example], block: int, pad: int, pool_size: int = 48) -> Iterator[dict[str, list[int]]]:
    """Rows of `block` tokens, filled best-fit from a pool of conversations; those longer than `block` are left out.

    `position_ids` start anew with each conversation: attention stays inside it (transformers derives the mask from them).
    """
    pool: list[Example] = []
    while True:
        row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
        while True:
            while len(pool) < pool_size:
                example = next(examples)
                if len(example.input_ids) <= block:
                    pool.append(example)
            room = block - len(row["input_ids"])
            fitting = [e for e in pool if len(e.input_ids) <= room]
            if not fitting:
                break
            # The first of a row is the oldest of the pool, so that nothing waits for ever.
            best = pool[0] if not row["input_ids"] else max(fitting, key=lambda e: len(e.input_ids))
            pool.remove(best)
            row["input_ids"] += best.input_ids
            row["labels"] += best.labels
            row["position_ids"] += range(len(best.input_ids))
        missing = block - len(row["input_ids"])
        row["input_ids"] += [pad] * missing
        row["labels"] += [IGNORED] * missing
        row["position_ids"] += range(missing)
        yield row
