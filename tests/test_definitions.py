"""Versions of schemas and templates in the store, and what a changed schema is asked with."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import labelled
from serving import SHOES, TEA, serving

from extractor import Attribute, AttributeSchema, DemonstrationPool, Extractor
from extractor.definitions import Definitions, unsaved, written
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import ConflictError, InputError
from extractor.extract import OwnOffer
from extractor.feedback import Store
from extractor.journal import Journal
from extractor.prompts import load_template
from extractor.service.served import trained_schemas
from extractor.vocabulary import Vocabulary

SIZED = AttributeSchema.from_names(["Brand", "Size"], "Shoes")
HOSTILE_NAMES = [
    "'; DROP TABLE versions; --",
    "../../etc/passwd",
    "a\0b",
    "\\0",
    "%s",
    "{{ 7*7 }}",
    "Tee/Grün",
    "x" * 200,
]
GOOD = load_template("extract@2").source


def test_a_version_is_saved_on_top_of_the_one_that_its_editor_saw(database):
    definitions = Definitions(database)
    first = definitions.save("schema", "shoes", "one", 0, "Ann")
    assert (first.number, first.who, first.text) == (1, "Ann", "one")
    second = definitions.save("schema", "shoes", "two", 1, "Bob")
    with pytest.raises(ConflictError, match=r"version 2 was saved by Bob since version 1"):
        definitions.save("schema", "shoes", "three", 1, "Ann")
    assert definitions.save("schema", "shoes", "two", 1, "Ann") == second, "the same text is no new version"
    assert definitions.save("schema", "shoes", "one", 2, "Ann").number == 3, "and what is old can come back"
    assert [(v.number, v.text) for v in definitions.versions("schema", "shoes")] == [(3, "one"), (2, "two"), (1, "one")]
    assert definitions.read("schema", "shoes", 2) == second and definitions.read("schema", "shoes", 9) is None
    assert definitions.numbers("schema") == {"shoes": 3} and definitions.numbers("template") == {}
    assert [e.what for e in Journal(database).entries()] == ["save schema"] * 3


def test_a_file_is_the_version_before_the_first(database):
    definitions, file = Definitions(database), unsaved("extract", 2, "of a file")
    assert definitions.save("template", "extract", "of a file", 2, "Ann", file) == file
    with pytest.raises(ConflictError, match="version 2 was saved since version 0"):
        definitions.save("template", "extract", "new", 0, "Ann", file)
    assert definitions.save("template", "extract", "new", 2, "Ann", file).number == 3
    assert definitions.save("template", "extract", "newer", 3, "Ann", file).number == 4


def test_of_editors_who_save_at_once_one_wins(database):
    definitions = Definitions(database)

    def save(text):
        try:
            return definitions.save("schema", "shoes", text, 0, text).text
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(save, map(str, range(8))))
        assert len(list(filter(None, saved))) == 1 and len(definitions.versions("schema")) == 1
        assert {
            v.number for v in pool.map(lambda _: definitions.save("schema", "tea", "same", 0, "Ann"), range(8))
        } == {1}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_is_no_more_than_a_name(database, name):
    definitions = Definitions(database)
    definitions.save("schema", name, name, 0, name)
    assert definitions.read("schema", name, 1).text == name and definitions.numbers("schema") == {name: 1}
    with pytest.raises(InputError, match="no template"):
        definitions.template(name)


def test_a_new_version_keeps_what_is_known_of_its_category():
    """Demonstrations stay, but for those that it contradicts; known values are its own."""
    words = lambda *known: Attribute(name="Brand", vocabulary=known)  # noqa: E731
    served = AttributeSchema(category="Shoes", attributes=(words("Velmora"), Attribute(name="Size")))
    shown = [labelled("Velmora A 42", Brand="Velmora", Size="42"), labelled("Karu B 4x", Brand="Karu", Size="4x")]
    extractor = Extractor(
        ScriptedEngine(),
        [served, TEA],
        "extract@2",
        demonstrations=DemonstrationPool(shown),
        vocabulary=Vocabulary([served, TEA], [labelled("Tarn shoe", Brand="Tarn")]),
    )
    offer = {"id": "1", "category": "Shoes", "title": "Velmora and Karu and Tarn"}

    def prompt(schema):
        messages = extractor.prompt(OwnOffer(**offer, asked_by=schema), schema)
        return messages[-1]["content"].partition("<known>")[2], sum(m["role"] == "assistant" for m in messages)

    assert prompt(served) == ('{"Brand": ["Velmora", "Tarn"]}</known>', 2)
    changed = AttributeSchema(category="Shoes", attributes=(words("Karu"), Attribute(name="Size", type="number")))
    assert prompt(changed) == ('{"Brand": ["Karu", "Tarn"]}</known>', 1)
    assert prompt(SIZED) == ('{"Brand": ["Tarn"]}</known>', 2)
    assert prompt(served) == ('{"Brand": ["Velmora", "Tarn"]}</known>', 2)


def test_an_adapter_serves_the_version_that_it_was_trained_for_alone(database):
    class Promoted:
        """A registry with one adapter, trained for the second version of one category."""

        root = None

        def promoted(self):
            card = SimpleNamespace(schemas={"Shoes": SIZED.reference})
            return {"Shoes": SimpleNamespace(card=card, reference="shoes@7")}

    definitions = Definitions(database)
    assert trained_schemas([SHOES, TEA], definitions, None) == [SHOES, TEA]
    definitions.save("schema", "shoes", '{"of": "a newer program"}', 0, "Ann")
    definitions.save("schema", "shoes", written(SIZED), 1, "Ann")
    definitions.save("schema", "shoes", written(SIZED.model_copy(update={"description": "new"})), 2, "Ann")
    assert trained_schemas([SHOES, TEA], definitions, Promoted()) == [SIZED, TEA]
    assert trained_schemas([TEA], definitions, Promoted()) == [TEA, SIZED], "of a category without a file too"
    with serving(ScriptedEngine(), store=Store(database), registry=Promoted()) as running:
        body = {"schema": SHOES.written(), "from_version": 3}
        assert running.http.put("/v1/schemas/Shoes", json=body).json()["adapter_left"] == "shoes@7"
        body = {"schema": SIZED.written(), "from_version": 4}
        assert running.http.put("/v1/schemas/Shoes", json=body).json()["adapter_left"] is None
