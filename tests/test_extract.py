"""The flow, with the scripted engine: order, failures, truncation, demonstrations."""

import itertools
import json

import pytest
from conftest import assert_grounded, hostile_titles, labelled

from extractor import AttributeSchema, DemonstrationPool, Extraction, Extractor, Failure, ProductOffer, load_schemas
from extractor.demonstrations import check_demonstrations
from extractor.engines.base import Generation, overflow
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import DemonstrationError, EngineUnavailable, InputError
from extractor.extract import Asking, OwnOffer, cut_at_word
from extractor.prompts import PROMPTS, load_template
from extractor.vocabulary import Vocabulary

SCHEMA = AttributeSchema.from_names(["Brand", "Color"])


def test_results_come_in_the_order_of_the_offers(samples):
    mixed = samples[::7] + samples[3::7] + [ProductOffer(id="alien", title="x", category="Spaceships")]
    seen: list[str] = []
    engine = ScriptedEngine(lambda request: seen.append(request.messages[0]["content"]) or "{")
    records = Extractor(engine, load_schemas(PROMPTS / "schemas")).extract(mixed)
    assert [r.offer_id for r in records] == [o.id for o in mixed]
    assert engine.calls == 1
    changes = sum(a != b for a, b in itertools.pairwise(seen))
    assert changes == len(set(seen)) - 1  # offers of a category are sent together
    assert "no schema for category 'Spaceships'; there are schemas for Bedding" in records[-1].failure.message
    assert {r.failure.reason for r in records} == {"invalid_output", "unknown_category"}


def test_an_offer_with_a_schema_of_its_own_is_asked_by_that_and_by_no_adapter_of_its_category():
    shoes, own = AttributeSchema.from_names(["Brand"], "Shoes"), AttributeSchema.from_names(["Sole"], "Shoes")
    routes = {"Shoes": Asking(load_template("extract"), DemonstrationPool([]), Vocabulary(), "shoes@1")}
    engine, offer = ScriptedEngine(), {"id": "1", "title": "Velmora x", "category": "Shoes"}
    records = Extractor(engine, [shoes, SCHEMA], routes=routes).extract(
        [ProductOffer(**offer), OwnOffer(**offer, asked_by=own), OwnOffer(**offer, asked_by=shoes)]
    )
    assert [(list(r.attributes), r.provenance.adapter) for r in records] == [
        (["Brand"], "shoes@1"),
        (["Sole"], None),
        (["Brand"], "shoes@1"),
    ]
    assert engine.calls == 1


@pytest.mark.parametrize(
    ("written", "reason", "message"),
    [
        ("{", "invalid_output", "no JSON at character 1"),
        ("", "invalid_output", "belongs"),
        ('{"Brand": null}', "invalid_output", "lacks 'Color'"),
        (Generation(text='{"Brand": "Vel', finish_reason="length"), "output_truncated", "its limit of"),
        (Generation(finish_reason="error", message="refused"), "engine_error", "refused"),
        (
            overflow(5000, 100, 4096),
            "context_overflow",
            "5000 tokens and the answer may take 100; the model allows 4096",
        ),
    ],
)
def test_what_goes_wrong_with_one_offer_is_its_own_failure(written, reason, message):
    offers = [ProductOffer(id=str(i), title=f"Velmora {i}") for i in range(3)]
    good = '{"Brand": "Velmora", "Color": null}'
    engine = ScriptedEngine(lambda r: written if "Velmora 1" in r.messages[-1]["content"] else good)
    records = Extractor(engine, SCHEMA).extract(offers)
    assert [isinstance(r, Failure) for r in records] == [False, True, False]
    assert records[1].failure.reason == reason
    assert message in records[1].failure.message
    assert records[1].title == "Velmora 1"


def test_an_engine_that_is_gone_is_an_error():
    with pytest.raises(EngineUnavailable):
        Extractor(ScriptedEngine(failing=frozenset({0})), SCHEMA).extract([ProductOffer(id="1", title="x")])


def test_truncation_cuts_at_a_word_description_first_and_says_so():
    def script(request):
        words = len(request.messages[-1]["content"].split())
        return (
            overflow(words + 20, request.max_tokens, 50 + request.max_tokens)
            if words > 20
            else '{"Brand": "Velmora", "Color": null}'
        )

    long = ProductOffer(id="1", title="Velmora Loafer", description="word " * 300)
    short = ProductOffer(id="2", title="Velmora Boot")
    kept, whole = Extractor(ScriptedEngine(script), SCHEMA, truncate=True).extract([long, short])
    assert kept.truncated and not whole.truncated
    assert kept.title == "Velmora Loafer" and kept.description.endswith("word") and len(kept.description) < 100
    failed, _ = Extractor(ScriptedEngine(script), SCHEMA).extract([long, short])
    assert failed.failure.reason == "context_overflow" and "--truncate" in failed.failure.message


def test_what_no_cut_can_fit_is_a_failure():
    engine = ScriptedEngine(lambda r: overflow(900, 10, 50))
    record = Extractor(engine, SCHEMA, truncate=True).extract([ProductOffer(id="1", title="a b c d")])[0]
    assert record.failure.reason == "context_overflow"


@pytest.mark.parametrize(
    ("text", "length", "cut"),
    [("one two", 7, "one two"), ("one two", 5, "one"), ("one two", 3, "one"), ("onetwo", 3, "one"), ("one", 0, "")],
)
def test_cut_at_word(text, length, cut):
    assert cut_at_word(text, length) == cut


def test_hostile_titles_give_grounded_records():
    offers = [ProductOffer(id=str(i), title=t) for i, t in enumerate(hostile_titles(300))]

    def script(request):  # copy the title as the prompt shows it
        shown = request.messages[-1]["content"].removeprefix("<title>").removesuffix("</title>")
        return json.dumps({"Brand": shown[:50].strip() or None, "Color": None}, ensure_ascii=False)

    records = Extractor(ScriptedEngine(script), SCHEMA).extract(offers)
    extractions = assert_grounded(offers, records)
    assert len(extractions) == 300
    assert all(v.status == "verbatim" for r in extractions for v in r.attributes["Brand"])


def test_demonstrations_are_of_the_category_similar_and_never_the_offer_itself():
    pool = [labelled(f"{c} running shoe {n}", Brand=c) for c in ("Aldo", "Berra", "Cirra") for n in ("mesh", "suede")]
    other = pool[0].model_copy(update={"id": "tea", "category": "Tea"})
    offer = ProductOffer(id="Berra running shoe suede", title="Berra running shoe suede", category="shoes ")
    chosen = DemonstrationPool([*pool, other], k=2).choose(offer, SCHEMA)
    assert [d.title for d in chosen][-1] == "Berra running shoe mesh"
    assert len(chosen) == 2 and offer.id not in [d.id for d in chosen]
    fixed = DemonstrationPool(pool, k=2, choice="fixed").choose(offer, SCHEMA)
    assert [d.title for d in fixed] == ["Aldo running shoe mesh", "Aldo running shoe suede"]
    drawn = [DemonstrationPool(pool, k=3, choice="random", seed=1).choose(offer, SCHEMA) for _ in range(2)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3
    assert DemonstrationPool([], k=5).choose(offer, SCHEMA) == []


@pytest.mark.parametrize(
    ("category", "values", "message"),
    [
        ("Shoes", {"Brand": ["Nike"]}, "'Nike' is not in the offer's text"),
        ("Shoes", {"Gender": ["Dogs"]}, "'Dogs' is not among"),
        ("Shoes", {"Waterproof": ["yes"]}, "neither true nor false"),
        ("Sunscreen", {"Volume": ["50 ml"]}, "is not a number"),
    ],
)
def test_demonstrations_that_contradict_themselves_are_refused(category, values, message):
    offer = labelled("Velmora Loafer").model_copy(update={"category": category, "attributes": values})
    with pytest.raises(DemonstrationError, match=message):
        check_demonstrations([offer], load_schemas(PROMPTS / "schemas"))


def test_no_schema_is_refused():
    with pytest.raises(InputError):
        Extractor(ScriptedEngine(), [])


def test_provenance_says_what_made_a_record(samples):
    record = Extractor(ScriptedEngine(), load_schemas(PROMPTS / "schemas")).extract(samples[:1])[0]
    assert isinstance(record, Extraction)
    made = record.to_dict()["provenance"]
    assert (made["model"], made["engine"], made["template"]) == (
        "scripted@1",
        "scripted",
        load_template("extract").reference,
    )
    assert len(made["template_sha256"]) == 64 and made["schema"].startswith("shoes@")
