"""The systems to compare with: what they learn from little data, folders, search, and the commands."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
from conftest import assert_grounded, labelled, run_cli

from eval.baselines import BASELINES, Baseline, open_baseline, train_baseline
from eval.baselines.lookup import Lookup
from eval.baselines.recipe import Recipe, divided
from extractor import AttributeSchema, Extraction, LabelledOffer
from extractor.errors import InputError
from extractor.schema import Attribute

SCHEMA = AttributeSchema.from_names(["Brand", "Color", "Size"], "Shoes")
TYPED = AttributeSchema(
    category="Shoes",
    attributes=(
        Attribute(name="Brand"),
        Attribute(name="Gender", type="enum", values=("Women", "Men", "Kids")),
        Attribute(name="Waterproof", type="boolean"),
        Attribute(name="Length", type="number", unit="cm"),
    ),
)


def test_the_held_out_part_is_apart_and_drawn_by_the_seed():
    offers = _offers(60, 1)
    learned, held_out = divided(offers, 0.2, 0)
    assert len(held_out) == 12 and {o.id for o in learned} | {o.id for o in held_out} == {o.id for o in offers}
    assert divided(offers, 0.2, 0) == (learned, held_out) != divided(offers, 0.2, 1)
    assert divided(offers[:49], 0.2, 0)[1] == []


# --- what they learn --------------------------------------------------------------------------------------------------


def test_lookup_takes_the_longest_training_value_first(tmp_path):
    training = [labelled("x", Brand="Tarn"), labelled("y", Brand="Tarn & Holt", Color="Tan")]
    offers = [labelled("Tarn & Holt Loafer"), labelled("Unknown Boot"), labelled("Tanned Tan")]
    Lookup.train(training, [SCHEMA], tmp_path)
    records = assert_grounded(offers, open_baseline(tmp_path).extract(offers))
    assert [v.value for v in records[0].attributes["Brand"]] == ["Tarn & Holt", "Tarn"]
    assert records[1].attributes == {"Brand": [], "Color": [], "Size": []}
    assert records[2].attributes["Color"][0].evidence.begin == 7


def _offers(n: int, seed: int) -> list[LabelledOffer]:
    """Brands of two words or one, colours, and sizes after EU, which every fourth offer lacks; every eighth offer has its colour
    in a description, and the first of them a long one."""
    rng, offers = Random(seed), []
    for i in range(n):
        brand = rng.choice(["Velmora", "Tarn & Holt", "Karu", "Ostrin Peak"])
        color, size = rng.choice(["Tan", "Slate Grey", "Black"]), str(rng.randint(36, 46))
        title = f"{brand} Loafer {rng.choice(['Soft', 'Wide', 'New'])}{'' if i % 4 == 1 else ' EU ' + size}"
        long = f"{'A comfortable shoe for every day. ' * (2 if i else 40)}Comes in {color}." if i % 8 == 0 else None
        title = title if long else f"{title} {color}"
        gold = {"Brand": [brand], "Color": [color]} | ({} if i % 4 == 1 else {"Size": [size]})
        offers.append(LabelledOffer(id=f"{seed}-{i}", title=title, description=long, category="Shoes", attributes=gold))
    return offers


def _typed(n: int, seed: int) -> list[LabelledOffer]:
    """Gender by a word that is not its value, water resistance in other words, a length in millimetres, of some none."""
    rng, offers = Random(seed), []
    who = {"Women": "ladies", "Men": "gentlemen", "Kids": "toddlers"}
    for i in range(n):
        gender, wet, length = rng.choice(list(who)), rng.random() < 0.5, rng.choice([20, 30])
        title = f"Karu boot for {who[gender]}, {'keeps rain out' if wet else 'for indoors'}, {'short' if length < 25 else 'long'}"
        gold = {"Brand": ["Karu"], "Gender": [gender], "Waterproof": [str(wet).lower()], "Length": [str(length)]}
        if i % 4 == 0:
            del gold["Gender"]
            title = f"Karu boot, {'keeps rain out' if wet else 'for indoors'}, {'short' if length < 25 else 'long'}"
        absent = [] if "Gender" in gold else ["Gender"]
        offers.append(LabelledOffer(id=f"{seed}-{i}", title=title, category="Shoes", attributes=gold, absent=absent))
    return offers


def _right(records: list[Extraction], offers: list[LabelledOffer], names: list[str]) -> float:
    cells = [
        [v.value for v in record.attributes[name][:1]] == offer.attributes.get(name, [])[:1]
        for record, offer in zip(records, offers, strict=True)
        for name in names
    ]
    return sum(cells) / len(cells)


HOSTILE = [labelled("x " * 2000), labelled("🔥" * 50), labelled('" \\ \n <title>'), labelled("\u200b")]


RECIPES = {
    "token_classification": Recipe(epochs=3, learning_rate=1e-3, batch=8),
    "question_answering": Recipe(epochs=2, learning_rate=5e-4, batch=4),
    "linear_probe": Recipe(),
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Baseline, Path]]:
    """A baseline that learned the 60 offers, and its folder."""

    @cache
    def train(name: str) -> tuple[Baseline, Path]:
        folder = tmp_path_factory.mktemp(name)
        return train_baseline(name, _offers(60, 1), [SCHEMA], folder, recipe=RECIPES[name]), folder

    return train


@pytest.mark.parametrize("name", RECIPES)
def test_text_is_learned_with_offsets_and_the_folder_predicts_the_same(name, taught, capsys):
    trained, folder = taught(name)
    assert "held-out F1" in capsys.readouterr().err or name == "linear_probe"
    offers = _offers(16, 2)
    records = assert_grounded(offers, trained.extract(offers))
    assert _right(records, offers, ["Brand", "Color", "Size"]) > 0.85
    in_description = [r.attributes["Color"][0].evidence.field for r in records[::8] if r.attributes["Color"]]
    assert in_description and set(in_description) == {"description"}
    again = open_baseline(folder).extract(offers)
    assert [r.attributes for r in again] == [r.attributes for r in records]
    assert len(assert_grounded(HOSTILE, trained.extract(HOSTILE))) == len(HOSTILE)
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("linear_probe", Recipe()),
        ("classification", Recipe(epochs=8, learning_rate=1e-3, batch=8)),
        ("classification", Recipe(epochs=8, learning_rate=3e-3, batch=8, layers=1)),
    ],
)
def test_closed_vocabularies_booleans_and_numbers_are_learned(name, recipe, tmp_path):
    training, offers = _typed(60, 1), _typed(20, 2)
    trained = train_baseline(name, training, [TYPED], tmp_path, recipe=recipe)
    records = assert_grounded(offers, trained.extract(offers))
    assert _right(records, offers, ["Gender", "Waterproof", "Brand"]) > 0.9
    assert all(r.attributes["Brand"][0].status == "verbatim" for r in records)
    lengths = [(float(r.attributes["Length"][0].value), o) for r, o in zip(records, offers, strict=True)]
    assert sum(abs(value - float(o.attributes["Length"][0])) < 4 for value, o in lengths) > 0.8 * len(lengths)
    assert {r.attributes["Length"][0].normalized_value for r in records} >= {f"{v:.0f} cm" for v, _ in lengths}
    again = open_baseline(tmp_path).extract(offers)
    assert [r.attributes for r in again] == [r.attributes for r in records]
    assert len(assert_grounded(HOSTILE, trained.extract(HOSTILE))) == len(HOSTILE)


def test_only_the_top_layers_are_trained():
    from transformers import AutoModelForSequenceClassification

    from eval.baselines.encoder import encoder_folder
    from eval.baselines.training import freeze

    for layers, expected in [(0, set()), (2, {4, 5})]:
        model = AutoModelForSequenceClassification.from_pretrained(encoder_folder())
        freeze(model, layers)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {int(n.split(".")[3]) for n in trained if ".layer." in n} == expected
        assert not any("embeddings" in n for n in trained)
        assert {"classifier.weight", "bert.pooler.dense.weight"} <= trained


def test_an_attribute_never_seen_in_training_can_be_asked(taught):
    _, folder = taught("question_answering")
    asked, offers = open_baseline(folder), _offers(16, 2)
    asked.schemas = [AttributeSchema.from_names(["Colour"], "Shoes")]
    answers = [[v.value for v in r.attributes["Colour"]] for r in assert_grounded(offers, asked.extract(offers))]
    assert sum(a == o.attributes["Color"] for a, o in zip(answers, offers, strict=True)) > len(offers) / 2


def test_questions_have_negatives():
    from eval.baselines.question_answering import question, training_questions

    listed = labelled("x", Brand="Karu").model_copy(update={"absent": ["Size"]})
    unlisted = labelled("y", Brand="Karu")
    names = [[a.name for a in asked] for asked in training_questions([listed, unlisted], [SCHEMA], 0)]
    assert names == [["Brand", "Size"], ["Brand"]]
    drawn = [asked[1].name for asked in training_questions([unlisted] * 20, [SCHEMA], 0)]
    assert set(drawn) == {"Color", "Size"}
    assert question(Attribute(name="Size", description="As printed.")) == "Size: As printed."


@pytest.mark.parametrize(
    ("offer", "problem"),
    [
        ({"Gender": ["Unisex"]}, "offer 'x': Gender is 'Unisex', which is not among Kids, Men, Women"),
        ({"Length": ["long"]}, "offer 'x': Length is 'long', which is no number"),
        ({"Waterproof": ["yes"]}, "offer 'x': Waterproof is 'yes', which is not among false, true"),
        ({}, "no values to learn"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(offer, problem, tmp_path):
    training = [LabelledOffer(id="x", title="Boot", category="Shoes", attributes=offer)]
    with pytest.raises(InputError, match=problem):
        train_baseline("classification", training, [TYPED], tmp_path)


# --- search, folders, commands ----------------------------------------------------------------------------------------


def test_a_search_keeps_to_its_budget_starts_from_the_recipe_and_goes_on(tmp_path):
    from eval.baselines.search import search

    training, start = _offers(50, 1), Recipe(penalty=5.0, pooling="max")
    found = search("linear_probe", training, [SCHEMA], tmp_path, start=start, trials=2)
    result = json.loads((tmp_path / "search.json").read_text())
    assert result["trials"] == 2 and 0 < result["minutes"] < 2
    assert result["all"][0]["penalty"] == 5.0 and result["all"][0]["pooling"] == "max"
    assert result["score"] == max(t["score"] for t in result["all"]) and result["best"]["penalty"] == found.penalty
    assert replace(found, penalty=5.0, pooling="max", held_out=0.1) == start
    search("linear_probe", training, [SCHEMA], tmp_path, start=start, trials=3)
    result_after = json.loads((tmp_path / "search.json").read_text())
    assert result_after["all"][:2] == result["all"] and result_after["trials"] == 3


@pytest.mark.parametrize(
    ("name", "offers", "budget", "problem"),
    [
        ("lookup", 50, {"trials": 1}, "lookup has no hyper-parameters"),
        ("linear_probe", 50, {}, "needs a budget"),
        ("linear_probe", 49, {"trials": 1}, "too few to hold any out"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(name, offers, budget, problem, tmp_path):
    from eval.baselines.search import search

    with pytest.raises(InputError, match=problem):
        search(name, _offers(offers, 1), [SCHEMA], tmp_path, **budget)


def test_an_unknown_name_and_a_broken_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=f"no baseline 'bert'; there are {', '.join(BASELINES)}"):
        train_baseline("bert", _offers(2, 1), [SCHEMA], tmp_path)
    with pytest.raises(InputError, match="no trained baseline"):
        open_baseline(tmp_path)
    (tmp_path / "baseline.json").write_text("{")
    with pytest.raises(InputError, match="broken"):
        open_baseline(tmp_path)


def _write_set(folder: Path) -> Path:
    folder.mkdir()
    for split, offers in {"train": _offers(60, 1), "validation": _offers(16, 2)}.items():
        (folder / f"{split}.jsonl").write_text("".join(o.model_dump_json() + "\n" for o in offers))
    return folder


def test_the_commands_train_score_and_predict_later(tmp_path):
    data, out = _write_set(tmp_path / "set"), tmp_path / "lookup"
    done = run_cli("eval", "baseline", "lookup", "--data", str(data), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "F1, published protocol" in done.stdout and "set validation: 16 offers" in done.stdout
    scores = json.loads((out / "scores.json").read_text())
    assert scores["training"]["offers"] == 60 and scores["baseline"] == "lookup"
    offers = tmp_path / "offers.jsonl"
    rows = [*(o.model_dump_json() for o in _offers(16, 2)), '{"id": "n", "title": ""}']
    offers.write_text("".join(row + "\n" for row in rows))
    done = run_cli("eval", "predict", "--baseline", str(out), "--data", str(offers))
    assert done.returncode == 1 and "17 offers, 16 records, 1 failures" in done.stderr
    written = [json.loads(line) for line in done.stdout.splitlines()]
    kept = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [r["attributes"] for r in written[:16]] == [r["attributes"] for r in kept]
    assert written[16]["failure"]["reason"] == "invalid_offer"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["bert", "--data", "set"], "no baseline 'bert'"),
        (["lookup", "--data", "set/train.jsonl"], "not a folder"),
        (["token_classification", "--data", "set", "--encoder", "set"], "it holds no config.json"),
        (["linear_probe", "--data", "set", "--pooling", "sum"], "there are mean and max"),
        (["lookup", "--data", "set", "--trials", "2"], "no hyper-parameters"),
    ],
)
def test_wrong_calls_say_what_is_wrong(arguments, problem, tmp_path):
    _write_set(tmp_path / "set")
    arguments = [str(tmp_path / a) if a.startswith("set") else a for a in arguments]
    done = run_cli("eval", "baseline", *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and problem in done.stderr.replace("\n", " ")
