import json

import pytest

from extractor.answer import json_schema
from extractor.errors import SchemaError
from extractor.prompts import PROMPTS
from extractor.schema import AttributeSchema, load_schema, load_schemas

BRAND = "  - name: Brand\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("category: Shoes\nattributes:\n  - name: Brand\n    kind: text\n", 4, "unknown key"),
        ("category: Shoes\ncolour: x\nattributes:\n" + BRAND, 2, "unknown key"),
        ("category: Shoes\nattributes:\n" + BRAND + BRAND, 2, "'Brand' stands twice"),
        ("category: Shoes\nattributes:\n  - name: G\n    type: enum\n", 3, "needs `values`"),
        ("category: Shoes\nattributes:\n  - name: G\n    values: [a]\n", 3, "belongs to type enum"),
        ("category: Shoes\nattributes:\n  - name: G\n    unit: ml\n", 3, "belongs to type number"),
        (
            "category: Shoes\nattributes:\n  - name: G\n    type: enum\n    values: [a]\n    examples: [b]\n",
            3,
            "not among",
        ),
        ("category: Shoes\nattributes:\n  - name: G\n    type: colour\n", 4, "text"),
        ("category: Shoes\nattributes:\n  - name: G\n    name: H\n", 4, "stands twice"),
        ("category: Shoes\nattributes: []\n", 2, "at least 1"),
        ("category: Shoes\n", 1, "attributes"),
        ("category: [Shoes\n", 2, "not valid YAML"),
        ("- Brand\n", 1, "expected keys"),
        ("", 1, "expected keys"),
    ],
)
def test_a_bad_schema_is_refused_with_file_line_and_key(write, text, line, message):
    path = write("shoes.yaml", text)
    with pytest.raises(SchemaError) as caught:
        load_schema(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)


def test_a_folder_with_two_schemas_of_one_category_is_refused(write):
    write("s/a.yaml", "category: Shoes\nattributes:\n" + BRAND)
    path = write("s/b.yaml", "category: shoes\nattributes:\n" + BRAND)
    with pytest.raises(SchemaError, match="already defined"):
        load_schemas(path.parent)


@pytest.mark.parametrize("name", ["nothing.yaml", "empty"])
def test_a_path_without_a_schema_says_so(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaError, match=r"no such file|holds no"):
        load_schemas(tmp_path / name)


def test_the_shipped_schemas_load():
    schemas = load_schemas(PROMPTS / "schemas")
    assert len(schemas) == 8
    assert {a.type for s in schemas for a in s.attributes} == {"text", "enum", "number", "boolean"}


def test_the_fingerprint_follows_the_content():
    one = AttributeSchema.from_names(["Brand", " Color "], "Shoes")
    assert one.fingerprint == AttributeSchema.from_names(["Brand", "Color"], "Shoes").fingerprint
    assert one.fingerprint != AttributeSchema.from_names(["Color", "Brand"], "Shoes").fingerprint
    assert one.reference == f"shoes@{one.fingerprint}"


def test_no_names_are_no_schema():
    with pytest.raises(SchemaError, match="no attribute names"):
        AttributeSchema.from_names([" ", ""])


def test_the_json_schema_takes_every_gold_answer():
    from jsonschema import Draft202012Validator

    from extractor.answer import write_answer

    schemas = {s.category: s for s in load_schemas(PROMPTS / "schemas")}
    checked = 0
    for line in (PROMPTS / "samples" / "gold.jsonl").read_text().splitlines():
        row = json.loads(line)
        schema = schemas[row["category"]]
        Draft202012Validator(json_schema(schema)).validate(json.loads(write_answer(schema, row["attributes"])))
        checked += 1
    assert checked > 60
