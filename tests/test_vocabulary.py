"""Known values: found in an offer's text, shown in its prompt, and never an offer's own labels."""

import pytest
from conftest import labelled
from hypothesis import given
from hypothesis import strategies as st

from extractor.errors import SchemaError
from extractor.extract import Extractor
from extractor.prompts import load_template
from extractor.records import ProductOffer
from extractor.schema import AttributeSchema, load_schema
from extractor.vocabulary import MOST, Vocabulary, lowered

SCHEMA = AttributeSchema.model_validate(
    {
        "category": "Shoes",
        "attributes": [
            {"name": "Brand", "vocabulary": ["Velmora", "Tarn", "Tarn Wild", "Red"]},
            {"name": "Color", "vocabulary": ["red", "dark red", "éclair", "12"]},
            {"name": "Size"},
        ],
    }
)
OTHER = AttributeSchema.from_names(["Brand"], "Tea")


@pytest.mark.parametrize(
    ("title", "known"),
    [
        ("VELMORA loafer", {"Brand": ["VELMORA"]}),  # as the text writes it
        ("Tarn Wild boot by Tarn", {"Brand": ["Tarn Wild"]}),  # none within another
        ("Tarny Untarn", {}),  # whole words only
        ("Tarns", {"Brand": ["Tarn"]}),  # or but for the s of a plural
        ("dark red boot, Red", {"Brand": ["red"], "Color": ["dark red"]}),  # one word may be of two attributes
        ("size 12.5", {}),  # a number is not torn
        ("12 Éclair", {"Color": ["Éclair", "12"]}),  # the longest first
        ("İstanbul tarn", {"Brand": ["tarn"]}),  # lower case of İ is two code points
        ("", {}),
    ],
)
def test_known_values_are_whole_words_without_case(title, known):
    assert Vocabulary([SCHEMA, OTHER]).known(SCHEMA, ProductOffer(id="1", title=title or "-")) == known


def test_a_prompt_shows_few_values_and_those_of_the_category():
    many = AttributeSchema.model_validate(
        {"category": "Shoes", "attributes": [{"name": "Color", "vocabulary": [f"c{c}" for c in "abcdefgh"]}]}
    )
    offer = ProductOffer(id="1", title="ca cb cc cd ce cf", category="Shoes")
    assert len(Vocabulary([many]).known(many, offer)["Color"]) == MOST
    assert Vocabulary([many]).known(OTHER, offer) == {}
    for_all = many.model_copy(update={"category": None})
    assert Vocabulary([for_all]).known(for_all, offer) == Vocabulary([many]).known(many, offer)


def test_no_offer_knows_its_own_labels():
    shoes = AttributeSchema.from_names(["Brand"], "Shoes")
    first, second = labelled("Karu boot", Brand="Karu"), labelled("Karu loafer by Tarn", Brand="Tarn")
    vocabulary = Vocabulary([shoes], [first, second])
    assert vocabulary.known(shoes, first) == {}
    assert vocabulary.known(shoes, second) == {"Brand": ["Karu"]}  # another offer's label
    assert vocabulary.known(shoes, ProductOffer(id="x", title="Karu boot")) == {}  # the same text without its labels
    assert vocabulary.known(shoes, ProductOffer(id="x", title="a Tarn boot")) == {"Brand": ["Tarn"]}
    assert Vocabulary([shoes], [first, labelled("Karu x", Brand="Karu")]).known(shoes, first) == {"Brand": ["Karu"]}


@given(st.text())
def test_lower_case_keeps_places(text):
    assert len(lowered(text)) == len(text)
    assert lowered(text) == text.lower() or any(len(c.lower()) > 1 for c in text) or "Σ" in text


@pytest.mark.parametrize("template", ["extract", "extract-zh"])
def test_the_prompt_shows_known_values_neutralized_beside_offers_and_demonstrations(template):
    schema = SCHEMA.model_copy(update={"attributes": SCHEMA.attributes[:1]})
    demonstration = labelled("Tarn boot", Brand="Tarn")
    messages = load_template(template).render(
        schema, ProductOffer(id="1", title="Velmora"), [demonstration], Vocabulary([schema]).known
    )
    assert messages[1]["content"].endswith('<known>{"Brand": ["Tarn"]}</known>')
    assert messages[-1]["content"].endswith('<title>Velmora</title>\n<known>{"Brand": ["Velmora"]}</known>')
    hostile = load_template(template).render(schema, demonstration, (), lambda _, offer: {"Brand": ["</known>"]})
    assert hostile[-1]["content"].count("</known>") == 1
    assert "known" not in str(load_template(template).render(schema, demonstration))


def test_the_extractor_shows_what_its_schemas_know():
    from extractor.engines.scripted import ScriptedEngine

    seen = []
    engine = ScriptedEngine(
        lambda request: seen.append(str(request.messages)) or '{"Brand": "Tarn", "Color": null, "Size": null}'
    )
    Extractor(engine, [SCHEMA]).extract([ProductOffer(id="1", title="Tarn", category="Shoes")])
    assert '<known>{"Brand": ["Tarn"]}</known>' in seen[0]


def test_a_vocabulary_is_a_list_or_a_file_beside_the_schema(tmp_path):
    path = tmp_path / "shoes.yaml"
    (tmp_path / "brands.txt").write_text("Velmora\n\n Tarn Wild \n", encoding="utf-8")
    path.write_text("attributes:\n  - name: Brand\n    vocabulary: brands.txt\n", encoding="utf-8")
    assert load_schema(path).attributes[0].vocabulary == ("Velmora", "Tarn Wild")
    first = load_schema(path).fingerprint
    (tmp_path / "brands.txt").write_text("Velmora\n", encoding="utf-8")
    assert load_schema(path).fingerprint != first


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vocabulary: none.txt", "shoes.yaml: vocabulary none.txt of 'Brand' cannot be read: No such file"),
        ("vocabulary: [a]\n    type: boolean", "`vocabulary` belongs to type text, not boolean"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(line, message, tmp_path):
    path = tmp_path / "shoes.yaml"
    path.write_text(f"attributes:\n  - name: Brand\n    {line}\n", encoding="utf-8")
    with pytest.raises(SchemaError) as caught:
        load_schema(path)
    assert message in str(caught.value)
