"""Every form of labelled data, and what is said of data that cannot be used."""

import json

import pytest
from conftest import SHARED, labelled

from eval.datasets import load_dataset, load_demonstrations
from extractor.errors import InputError

HOUSE = {
    "id": "1",
    "category": "Shoes",
    "title": "Velmora Loafer",
    "attributes": {"Brand": ["Velmora"]},
    "absent": ["Color"],
}
PAPERS = {
    "input": "Velmora Loafer",
    "category": "Shoes",
    "target_scores": {"Brand": {"Velmora": 1}, "Color": {"n/a": 1}},
}
MAVE = {
    "id": "1",
    "category": "Shoes",
    "paragraphs": [{"text": "Velmora Loafer", "source": "title"}, {"text": "Soft.", "source": "description"}],
    "attributes": [
        {"key": "Brand", "evidences": [{"value": "Velmora", "pid": 0, "begin": 0, "end": 7}]},
        {"key": "Color", "evidences": []},
    ],
}
BIO = """# id = 1
# category = Shoes
Velmora B-Brand
Loafer O

# category = Shoes
Tarn B-Brand
& I-Brand
Holt I-Brand
Tan B-Color
"""
CSV = 'id,category,title,Brand,Color\n1,Shoes,Velmora Loafer,Velmora,\n2,Shoes,"Tan|Black, Boot",?,Tan|Black\n'


@pytest.mark.parametrize(
    ("name", "content", "description"),
    [
        ("a.jsonl", json.dumps(HOUSE), None),
        ("a.jsonl", json.dumps(PAPERS), None),
        ("a.jsonl", json.dumps(MAVE), "Soft."),
        ("a.conll", BIO, None),
        ("a.csv", CSV, None),
        ("a.jsonl", json.dumps({"id": "1", "category": "Shoes", "title": "Velmora Loafer", "Brand": "Velmora"}), None),
    ],
)
def test_a_form_is_recognized(write, name, content, description):
    dataset = load_dataset(write(name, content))
    offer = dataset.offers[0]
    assert (offer.title, offer.category, offer.description) == ("Velmora Loafer", "Shoes", description)
    assert offer.attributes == {"Brand": ["Velmora"]}
    assert dataset.asked["Shoes"][0] == "Brand"


def test_bio_joins_continued_tokens_and_numbers_offers_without_id(write):
    second = load_dataset(write("a.bio", BIO)).offers[1]
    assert second.id == "line-6" and second.attributes == {"Brand": ["Tarn & Holt"], "Color": ["Tan"]}


def test_columns_tell_absent_from_unknown(write):
    first, second = load_dataset(write("a.csv", CSV)).offers
    assert first.absent == ["Color"] and second.attributes == {"Color": ["Tan", "Black"]} and second.absent == []


def test_the_first_entry_of_mixed_gold_decides(write):
    mixed = PAPERS | {"target_scores": {"Brand": {"n/a": 1, "Velmora": 1}, "Color": {"Tan": 1, "n/a": 1}}}
    offer = load_dataset(write("a.jsonl", json.dumps(mixed))).offers[0]
    assert offer.absent == ["Brand"] and offer.attributes == {"Color": ["Tan"]}


def test_a_folder_of_splits(write):
    folder = write("set/train.jsonl", json.dumps(HOUSE)).parent
    write("set/schema.json", json.dumps({"Shoes": ["Brand", "Color", "Size"]}))
    assert load_dataset(folder, "train").asked == {"Shoes": ("Brand", "Color", "Size")}
    with pytest.raises(InputError, match="no split 'test'; there are train"):
        load_dataset(folder, "test")
    with pytest.raises(InputError, match="say --split"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{\n", r"a.jsonl:1: not JSON"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: a JSON list, not an object"),
        ("a.jsonl", "\n", "no labelled offers"),
        ("a.jsonl", json.dumps(HOUSE) + "\n" + json.dumps(HOUSE), r"a.jsonl:2: .* an earlier offer has the id '1'"),
        ("a.jsonl", json.dumps(HOUSE | {"title": ""}), r"a.jsonl:1: .* no text"),
        ("a.jsonl", json.dumps({"paragraphs": [{"text": "x", "source": "title"}]}), "no key 'attributes'"),
        ("a.csv", "name,Brand\nx,y\n", r"no 'title'; columns are name, Brand"),
        ("a.bio", "Velmora\n", "expected a token and a tag"),
        ("a.bio", "Velmora X-Brand\n", "neither O nor B-"),
        ("a.xlsx", "x", "unknown format"),
        ("a.jsonl", b"\xff\xfe{", "not UTF-8"),
    ],
)
def test_what_cannot_be_used_is_named(write, name, content, message):
    with pytest.raises(InputError, match=message):
        load_dataset(write(name, content))


def test_left_out_rows_are_counted(write):
    path = write("a.jsonl", json.dumps(HOUSE) + "\n" + json.dumps(HOUSE | {"id": "2", "title": ""}))
    dataset = load_dataset(path, strict=False)
    assert len(dataset.offers) == 1
    assert dataset.left_out == {"the offer has no text: title and description are empty": 1}


def test_the_fingerprint_changes_with_a_label(write):
    one = load_dataset(write("a.jsonl", json.dumps(HOUSE)))
    other = load_dataset(write("b.jsonl", json.dumps(HOUSE | {"absent": []})))
    assert one.fingerprint != other.fingerprint


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the labelled offers are not here: {SHARED}")
@pytest.mark.parametrize("name", sorted(p.name for p in SHARED.iterdir() if p.is_dir()) if SHARED.is_dir() else [])
def test_public_sets_load(name):
    dataset = load_dataset(SHARED / name, "validation")
    assert len(dataset.offers) > 100 and not dataset.left_out


def test_demonstrations_come_from_a_file_of_any_form_or_a_folder_of_categories(tmp_path):
    assert load_demonstrations(None) == []
    for category in ("Shoes", "Tea"):
        offer = labelled(f"{category} by Velmora", Brand="Velmora").model_copy(update={"category": category})
        (tmp_path / f"{category.lower()}.jsonl").write_text(offer.model_dump_json() + "\n", encoding="utf-8")
    assert [o.category for o in load_demonstrations(tmp_path)] == ["Shoes", "Tea"]
    assert [o.category for o in load_demonstrations(tmp_path / "tea.jsonl")] == ["Tea"]
