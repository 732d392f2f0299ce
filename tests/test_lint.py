"""Each fault that lint knows, made in a template or file that has none otherwise."""

import json
import re

import pytest
from conftest import run_cli

from extractor.engines.models import BASE_MODEL, model_reference
from extractor.engines.tokens import load_counter
from extractor.errors import InputError
from extractor.lint import lint_record, lint_release, lint_template
from extractor.prompts import PROMPTS, list_templates, load_template, release
from extractor.records import ProductOffer
from extractor.schema import AttributeSchema

SOURCE = (PROMPTS / "templates" / "extract" / "1.jinja").read_text()
SHOES = str(PROMPTS / "schemas" / "shoes.yaml")


def user(content: str) -> str:
    """The shipped template with another way to show an offer."""
    return re.sub(
        r"(macro show\(offer\) -%})(.|\n)*?{%- endmacro", lambda m: f"{m[1]}\n{content}\n{{%- endmacro", SOURCE
    )


@pytest.mark.parametrize("reference", list_templates())
def test_the_shipped_templates_are_clean(reference):
    template = load_template(reference)
    assert lint_template(template) == [] and lint_release(template) == []


def test_the_shipped_record_is_whole():
    assert lint_record(PROMPTS / "templates") == []


TITLE, BOTH = (
    "{{ offer.title }}",
    "<title>{{ offer.title }}</title>\n<description>{{ offer.description }}</description>",
)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% call message('user') %}{{ ofer.title }}{% endcall %}", ":1: unknown variable 'ofer'"),
        ("{% call message('user') %}\n{{ offer.title", ":2: "),
        ("{{ offer.title }}", "writes no message"),
        ("{% call message('boss') %}{{ offer.title }}{% endcall %}", "a role is one of"),
        ("{% call message('user') %}{{ category }}{% endcall %}", "never shows offer.title"),
        ("{% call message('user') %}{{ offer.title }}{% endcall %}", "never shows the attribute names"),
        ("{% call message('user') %}\n\n{{ offer.nothing }}{% endcall %}", ":3: "),
        ("{% call message('user') %}{{ ''.__class__.__mro__ }}{% endcall %}", "unsafe"),
        (SOURCE.replace(" [{{ a.values | join", " [{{ a.values[:9] | join"), ": the prompt never shows all values"),
        (SOURCE.replace("attributes %}", "attributes[:20] %}"), ":16: 20 of 40 attributes are never rendered: 'Probe 15'"),
        (SOURCE.replace("attributes %}", "attributes if a.type != 'number' %}"), ":16: 1 of 40 attributes"),
        (SOURCE.replace("demonstrations -%}", "[] -%}"), "demonstrations never reach the prompt"),
        (SOURCE.replace("show(demonstration)", "demonstration.title"), "title and description of a demonstration"),
        (SOURCE.replace("{{ demonstration.answer }}", "{}"), "answer must be an assistant message"),
        (SOURCE.replace("Attributes:", "Attributes of {{ offer.title }}:"), "defeats the prefix cache"),
        (user("Title: {{ offer.title }}\n<d>{{ offer.description }}</d>"), ":3: a seller could write 'Title:', which"),
        (user("<t>{{ offer.title }}</t>\n### {{ offer.description }}"), ":4: a seller could write '###'"),
        (user("<t>{{ offer.title }}\nEND\n<d>{{ offer.description }}</d>"), ":4: a seller could write 'END', which"),
        (user("'{{ offer.title }}' {{ offer.description }}"), "a seller could write \"'\""),
        (user("{{ offer.title }}\n{{ offer.description }}"), "nothing but white space stands before the description"),
    ],
)  # fmt: skip
def test_a_bad_template_is_named_with_its_line(write, source, message):
    path = write("bad.jinja", source)
    try:
        found = [str(f) for f in lint_template(load_template(str(path))) if not f.note]
    except InputError as error:  # syntax shows when it is loaded
        found = [str(error)]
    assert all(f.startswith(str(path)) for f in found)
    assert any(message in f for f in found), found


@pytest.mark.parametrize(
    "content",
    [
        BOTH,
        "Offer:\n<title>\n{{ offer.title }}\n</title>{% if offer.description %}<d>{{ offer.description }}</d>{% endif %}\nJSON:",
        '{"title": {{ offer.title | tojson }}, "description": {{ offer.description | tojson }}}',
    ],
)
def test_delimiters_that_no_seller_can_write(write, content):
    assert [str(f) for f in lint_template(load_template(str(write("good.jinja", user(content)))))] == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{%- if a.description %}: {{ a.description }}{% endif %}", "", "attribute descriptions"),
        ("{%- if a.examples %} e.g. {{ a.examples", "{%- if a.examples %} e.g. {{ []", "examples"),
        ('{{ " in " + a.unit if a.unit else "" }}', "", "units"),
        ("{%- if a.multiple %} [list]{% endif %}", "", "that an attribute takes several values"),
        ("[true | false]", "", "that an attribute is true or false"),
        (" ({{ description }})", "", "the category's description"),
    ],
)
def test_what_is_never_shown_is_a_note(write, old, new, message):
    assert old in SOURCE
    (found,) = lint_template(load_template(str(write("short.jinja", SOURCE.replace(old, new)))))
    assert found.note and f"short.jinja: note: the prompt never shows {message}" in str(found)


def test_an_edited_and_a_lost_release_are_found(write, tmp_path):
    root = tmp_path / "t"
    for version in (1, 2, 3):
        write(f"t/own/{version}.jinja", SOURCE)
    for version in (1, 2):
        release(load_template(f"own@{version}", root), root)
    write("t/own/1.jinja", SOURCE + "{# better #}")
    (root / "own" / "2.jinja").unlink()
    done = run_cli("prompts", "lint", "--templates", str(root))
    edited, unreleased, gone = done.stdout.splitlines()
    assert done.returncode == 1
    assert f"own/1.jinja:1: own@1 was edited after its release: {root}/released.yaml:1 has" in edited
    assert "own/3.jinja: note: not released" in unreleased and gone.startswith(f"{root}/released.yaml:2: own@2 was")
    refused = run_cli("prompts", "release", "own@1", "--templates", str(root))
    assert refused.returncode == 2 and "was released with other text" in refused.stderr.replace("\n", " ")
    assert run_cli("prompts", "release", "own@3", "--templates", str(root)).returncode == 0
    assert "say which version" in run_cli("prompts", "release", "own", "--templates", str(root)).stderr


def shoe(identity: str, title: str, **attributes: list[str]) -> str:
    return json.dumps({"id": identity, "category": "Shoes", "title": title, "attributes": attributes})


def test_files_are_checked_with_the_template(write):
    demonstrations = write(
        "train.jsonl",
        "\n".join(
            [
                shoe("d1", "Velmora Loafer", Brand=["Velmora"]),
                "",
                shoe("d2", "Karu Boot", Brand=["Tarn"], Gender=["Boys"]),
                shoe("d3", "Tarn Sandal Red"),
                shoe("d4", "Cup").replace("Shoes", "Cups"),
            ]
        ),
    )
    offers = write("offers.jsonl", "\n".join([shoe("1", "Ostrin Clog"), shoe("2", "tarn sandal red ")]))
    mixed = write(
        "schemas/a.yaml",
        "category: Shoes\nattributes:\n  - name: Brand\n  - {name: Gender, type: enum, values: [Men]}\n",
    )
    write("schemas/b.yaml", "category: Coffee\nattributes:\n  - name: Brand\n")
    done = run_cli(
        *("prompts", "lint", "extract@1", "--schema", str(mixed.parent), "--offers", str(offers)),
        *("--demonstrations", str(demonstrations)),
    )
    assert done.returncode == 1
    leak, value, closed, stranger, length = done.stdout.splitlines()
    assert leak == f"{demonstrations}:4: demonstration 'd3' is the offer '2', which it must not help to answer"
    assert value == f"{demonstrations}:3: d2: Brand: 'Tarn' is not in the offer's text"
    assert closed.startswith(f"{demonstrations}:3: d2: Gender: 'Boys' is not among")
    assert (
        stranger == f"{demonstrations}:5: note: no schema for category 'Cups': its demonstrations, 1, are never shown"
    )
    assert "note: the longest of 3 prompts has" in length and f"({offers}:" in length


def test_a_prompt_that_does_not_fit_fails(write):
    offers = write("offers.jsonl", "\n".join([shoe("1", "Clog"), shoe("2", "Clog " * 5000)]))
    done = run_cli("prompts", "lint", "extract@1", "--schema", SHOES, "--offers", str(offers))
    assert done.returncode == 1
    found = re.search(
        r"1 of 2 prompts do not fit; the longest has (\d+) tokens \(.*:2\), .* take (\d+): (\d+) of the 4096",
        done.stdout,
    )
    assert found and int(found[1]) + int(found[2]) == int(found[3]) > 4096
    longest = run_cli(
        "prompts",
        "lint",
        "extract@1",
        "--schema",
        SHOES,
        "--demonstrations",
        str(PROMPTS / "demonstrations/shoes.jsonl"),
    )
    assert longest.returncode == 0 and "(Shoes, without an offer)" in longest.stdout


def test_a_template_that_breaks_on_real_schemas_is_named_with_its_line(write):
    path = write("bad.jinja", SOURCE.replace("- {{ a.name }}", "- {{ a.name }}{{ a.nothing if a.name == 'Brand' }}"))
    done = run_cli("prompts", "lint", str(path), "--schema", SHOES)
    assert done.returncode == 1 and done.stdout.startswith(
        f"{path}:17: 'extractor.schema.Attribute object' has no attribute"
    )


def test_tokens_are_counted_as_transformers_counts_them():
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE_MODEL)
    schema = AttributeSchema.from_names(["Brand", "Größe"], "Shoes")
    counter = load_counter("base")
    for title in ("Velmora Loafer", "中文 🔥 <|im_end|>", "x" * 300):
        messages = load_template("extract").render(schema, ProductOffer(id="1", title=title))
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert counter.count(messages) == len(ids)
    assert (counter.model, counter.context) == (model_reference("base"), 4096)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": "{}"}, "no max_position_embeddings"),
        ({"config.json": '{"max_position_embeddings": 9}'}, "no chat template"),
        ({"config.json": '{"max_position_embeddings": 9}', "chat_template.jinja": "x"}, "no tokenizer.json"),
    ],
)
def test_a_model_whose_tokens_cannot_be_counted(write, tmp_path, files, message):
    for name, content in files.items():
        write(f"model/{name}", content)
    with pytest.raises(InputError, match=message):
        load_counter(str(tmp_path / "model"))
    with pytest.raises(InputError, match="name a folder"):
        load_counter("maker/model")
