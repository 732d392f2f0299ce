"""Training adapters: from labels to examples, and every method at the smallest size."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from conftest import labelled, run_cli

from extractor import AttributeSchema, Extractor, create_engine, load_schemas
from extractor.adapters import Card, open_adapter
from extractor.config import load_settings, make_extractor
from extractor.engines.models import BASE_MODEL
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import AdapterError, InputError
from extractor.io import read_labelled
from extractor.prompts import PROMPTS, load_template

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from finetune.conversations import IGNORED  # noqa: E402
from finetune.dataset import AUGMENTATIONS, augmented, batches, checked, complete, divided, example  # noqa: E402
from finetune.lora import METHODS, SERVED, Recipe, _arguments, tune  # noqa: E402

SHOES = AttributeSchema.from_names(["Brand", "Color", "Size"], "Shoes")
BRANDS = [("Velmora", "Tan"), ("Brindlow", "Navy")]
LABELS = [
    labelled(f"{brand} {kind} {color} EU {size}", Brand=brand, Color=color, Size=f"EU {size}")
    for brand, kind, color, size in (
        ("Velmora", "Suede Loafer", "Tan", 42),
        ("Tarn & Holt", "Trail Boot", "Black", 44),
        ("Oskella", "Kids Sneaker", "Navy", 31),
        ("Brindlow", "Chelsea Boot", "Oxblood", 40),
    )
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE_MODEL)


def rows(*offers):
    return [(f"labels.jsonl:{i}", o) for i, o in enumerate(offers, 1)]


def test_labels_that_no_extraction_could_give_are_named_with_line_and_value():
    wrong = labelled("Velmora Loafer", Brand="Diesel", Heel="low")
    stranger = labelled("Mug").model_copy(update={"category": "Mugs"})
    with pytest.raises(InputError) as error:
        checked(rows(LABELS[0], wrong, stranger), [SHOES, AttributeSchema.from_names(["Bait"], "Lures")])
    assert "labels.jsonl:2: Brand: 'Diesel' is not in the offer's text" in str(error.value)
    assert "labels.jsonl:2: Heel: the schema has no such attribute" in str(error.value)
    assert "labels.jsonl:3: no schema for category 'Mugs'" in str(error.value)
    assert "--drop-invalid" in str(error.value) and "labels.jsonl:1" not in str(error.value)
    kept, problems = checked(rows(LABELS[0], wrong), [SHOES], drop_invalid=True)
    # what was dropped is unknown, and not absent as what nobody listed
    assert kept == [LABELS[0], wrong.model_copy(update={"attributes": {}, "absent": ["Color", "Size"]})]
    assert len(problems) == 2


def test_nearly_the_same_titles_are_never_on_both_sides():
    offers = [
        labelled(f"Velmora suede loafer number {i} in {color} for every day and every season", Color=color)
        for i in range(30)
        for color in ("Tan", "Black", "Navy")
    ]
    training, held_out = divided(offers, 0.2, seed=1)
    assert len(training) + len(held_out) == 90 and 9 <= len(held_out) <= 18
    number = {o.id: o.title.split()[4] for o in offers}
    assert not {number[o.id] for o in training} & {number[o.id] for o in held_out}
    assert all(divided(offers[:n], 0.9, seed=1)[0] for n in range(1, 6))
    assert divided(offers, 0.0, seed=1) == (offers, [])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_values_stand_in_the_augmented_text(name):
    schemas = {s.category: s for s in load_schemas(PROMPTS / "schemas")}
    gold = [o for o in read_labelled(PROMPTS / "samples" / "gold.jsonl") if o.category in schemas]
    rng, changed = Random(3), 0
    for offer in gold:
        schema = schemas[offer.category]
        kin = [o for o in gold if o.category == offer.category]
        new, asked = augmented((offer, schema), rng, [name], kin, share=1.0)
        changed += (new, asked) != (offer, schema)
        text = "\n".join(new.texts().values())
        for attribute in asked.attributes:
            was = offer.attributes.get(attribute.name, [])
            now = new.attributes.get(attribute.name, [])
            assert len(was) == len(now)
            if attribute.type == "text":
                assert [v in text for v in now] == ["\n".join(offer.texts().values()).count(v) > 0 for v in was]
    assert changed > len(gold) / 5


def test_an_example_is_the_extractors_prompt_with_the_decisions_of_its_answer(tokenizer):
    extractor = make_extractor(ScriptedEngine(), load_settings(k=1, calibration="none"), [SHOES], LABELS)
    offer = LABELS[0].model_copy(update={"absent": []})
    offer.attributes.pop("Size")
    made = example(extractor, tokenizer, offer, SHOES, Random(2))
    seen = []
    engine = ScriptedEngine(lambda request: seen.append(request) or '{"Brand": null, "Color": null, "Size": null}')
    Extractor(
        engine, [SHOES], demonstrations=extractor.asking.demonstrations, vocabulary=extractor.asking.vocabulary
    ).extract([offer])
    prompt = tokenizer.apply_chat_template(seen[0].messages, add_generation_prompt=True, return_dict=False)
    assert made.input_ids[: len(prompt)] == prompt and set(made.labels[: len(prompt)]) == {IGNORED}
    assert tokenizer.decode(made.input_ids[len(prompt) :]) == '{"Brand": "Velmora", "Color": "Tan", "Size": null}'
    # Size is in neither list: with this seed it teaches nothing
    assert tokenizer.decode([i for i in made.labels if i != IGNORED]) == '": "Velmora", "": "Tan", "'


def test_where_no_label_is_absent_the_unlisted_are():
    brandless = labelled("Trail Boot Black", Color="Black")
    assert complete([brandless], [SHOES])[0].absent == ["Brand", "Size"]
    listed = [brandless, LABELS[0].model_copy(update={"absent": ["Material"]})]
    assert complete(listed, [SHOES]) == listed


def test_batches_pass_over_all_labels_and_are_the_same_for_a_seed(tokenizer):
    extractor = make_extractor(ScriptedEngine(), load_settings(k=0, calibration="none"), [SHOES], LABELS)
    found = [
        [
            e.input_ids
            for b in batches(extractor, tokenizer, LABELS, epochs=3, batch=3, augment=["swap"], seed=s)
            for e in b
        ]
        for s in (1, 1, 2)
    ]
    assert len(found[0]) == 12 and found[0] == found[1] != found[2]


def test_paraphrases_ask_half_of_the_time_after_the_first_pass(tokenizer):
    own, other = (
        make_extractor(ScriptedEngine(), load_settings(template=t, k=0, calibration="none"), [SHOES], LABELS)
        for t in ("extract", "extract-zh")
    )
    passes = list(batches(own, tokenizer, LABELS, epochs=21, batch=4, paraphrases=[other], seed=1))
    chinese = [sum("原样复制" in tokenizer.decode(e.input_ids) for e in batch) for batch in passes]
    assert chinese[0] == 0 and 25 <= sum(chinese) <= 55


# --- training ---------------------------------------------------------------------------------------------------------

QUICK = Recipe(epochs=1, batch=2, rank=4)


def trained(out: Path, **changes) -> tuple[Path, Card]:
    settings = load_settings(engine="huggingface", k=0, calibration="none")
    return tune(LABELS, [SHOES], settings, out, replace(QUICK, **changes), report="none")


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # it reads what AdaLoRA itself has written
@pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")  # AdaLoRA may leave a matrix without any rank
@pytest.mark.parametrize("method", [m for m in METHODS if m not in SERVED])
def test_what_vllm_does_not_serve_answers_in_transformers(method, tmp_path):
    folder, card = trained(
        tmp_path / "shoes", method=method, epochs=8 if method == "adalora" else 1, fgm=0.5 * (method == "dora")
    )
    assert card.recipe["method"] == method
    settings = load_settings(engine="huggingface", adapter=folder, calibration="none")
    engine = create_engine("huggingface", **settings.engine_options())
    records = make_extractor(engine, settings, [SHOES]).extract([LABELS[0]])
    assert records[0].provenance.adapter == "shoes@1" and records[0].attributes.keys() == {"Brand", "Color", "Size"}
    with pytest.raises(AdapterError, match=r"vLLM serves LoRA and rsLoRA, not .*; use --engine huggingface"):
        create_engine("vllm", adapters=[open_adapter(folder)])


def test_full_training_writes_a_model_whose_other_layers_are_as_they_were(tmp_path):
    from safetensors.torch import load_file

    folder, _ = trained(tmp_path / "shoes", method="full", freeze=1, learning_rate=1e-3)
    before, after = load_file(BASE_MODEL / "model.safetensors"), load_file(folder / "model.safetensors")
    moved = {name.split(".")[2] for name in after if not torch.equal(before[name].float(), after[name].float())}
    last = max((name.split(".")[2] for name in before if ".layers." in name), key=int)
    assert moved == {last}
    engine = create_engine("huggingface", model=str(folder))
    assert engine.model == "shoes@1" and Extractor(engine, SHOES).extract([LABELS[0]])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU always trains in bfloat16")
def test_a_cpu_trains_in_bfloat16_where_it_multiplies_in_it_by_itself(tmp_path, monkeypatch):
    for able in (True, False):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda able=able: {"avx512_bf16": able})
        assert _arguments(Recipe(), tmp_path, 1, False, "none").bf16 is able


def test_training_resumes_exactly_after_a_kill(tmp_path):
    import finetune.lora

    def weights(folder: Path) -> bytes:
        return (folder / "adapter_model.safetensors").read_bytes()

    whole, _ = trained(tmp_path / "whole", epochs=3)

    class Killed(Exception):
        pass

    def kill(self, *arguments, **more):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune.lora, "saved", kill)
        with pytest.raises(Killed):
            trained(tmp_path / "killed", epochs=3)
    work = tmp_path / "killed" / "training"
    last = max(work.glob("*/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    assert int(last.name.split("-")[1]) == 6
    folder, _ = trained(tmp_path / "killed", epochs=3)
    assert weights(folder) == weights(whole)
    assert not work.exists()
    folder, card = trained(tmp_path / "killed", epochs=1)  # another recipe begins anew
    assert card.version == 2 and weights(folder) != weights(whole)


def test_a_full_disk_leaves_earlier_versions_whole(tmp_path, monkeypatch):
    out = tmp_path / "shoes"
    trained(out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full(self, *arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft.PeftModel.save_pretrained", full)
    with pytest.raises((InputError, OSError), match="No space left"):
        trained(out)
    assert all(p.read_bytes() == content for p, content in before.items()) and not (out / "2").exists()


MANY = [
    labelled(f"{brand} Loafer {n}{color} EU {n + 30}", Brand=brand, Color=color, Size=f"EU {n + 30}")
    for n in range(13)
    for brand, color in (("Velmora", "Tan"), ("Oskella", "Navy"), ("Brindlow", "Black"), ("Tarn", "Olive"))
]


def test_early_stopping_goes_by_extraction(tmp_path):
    settings = load_settings(engine="huggingface", k=0, calibration="none")
    recipe = replace(QUICK, epochs=2, batch=8, held_out=0.1)
    _, card = tune(MANY, [SHOES], settings, tmp_path / "shoes", recipe, report="none")
    assert card.labels + card.scores["offers"] == 52 and 0 < card.scores["f1"] <= 100
    _, card = tune(MANY, [SHOES], settings, tmp_path / "shoes", replace(recipe, epochs=1, held_out=0.0), report="none")
    assert card.labels == 52 and card.scores == {}


def test_an_adapter_goes_on_and_says_what_it_forgot(tmp_path):
    settings = load_settings(engine="huggingface", k=0, calibration="none")
    mugs = [labelled(f"{b} mug {c}", Brand=b, Color=c).model_copy(update={"category": "Mugs"}) for b, c in BRANDS]
    both = [SHOES, AttributeSchema.from_names(["Brand", "Color"], "Mugs")]
    first, _ = trained(tmp_path / "shoes")
    again = replace(QUICK, replay=0.5, learning_rate=1e-4, method="adalora", rank=3)
    folder, card = tune(mugs, both, settings, tmp_path / "home", again, report="none", start=open_adapter(first))
    assert {o.category for o in read_labelled(folder / "labels.jsonl")} == {"Shoes", "Mugs"} == card.schemas.keys()
    assert card.recipe["method"] == "lora" and card.recipe["rank"] == QUICK.rank  # those of the adapter that goes on
    old = card.scores["old"]
    assert (
        old["adapter"] == "shoes@1" and old["offers"] == 3 and card.labels == 6
    )  # one of four is replayed with two mugs
    assert 0 <= old["before"] <= 100 and 0 <= old["after"] <= 100
    with pytest.raises(InputError, match="learned 'Shoes', for which there is no schema"):
        tune(mugs, both[1:], settings, tmp_path / "mugs", again, report="none", start=open_adapter(first))
    damaged = json.loads((first / "adapter.json").read_text()) | {"base_fingerprint": "0123456789abcdef"}
    (first / "adapter.json").write_text(json.dumps(damaged))
    with pytest.raises(AdapterError, match=r"made for base@\d+, and .* has other weights"):
        tune(mugs, both, settings, tmp_path / "mugs", again, report="none", start=open_adapter(first))


def test_merged_adapters_add_up_and_say_what_it_costs(tmp_path):
    from safetensors.torch import load_file

    from finetune.merge import cost, merge

    def updates(folder: Path) -> dict[str, torch.Tensor]:
        given = json.loads((folder / "adapter_config.json").read_text())
        held = load_file(folder / "adapter_model.safetensors")
        scale = given["lora_alpha"] / given["r"]
        return {k: scale * held[k.replace("lora_A", "lora_B")] @ held[k] for k in held if "lora_A" in k}

    settings = load_settings(engine="huggingface", k=0, calibration="none")
    mug = AttributeSchema.from_names(["Brand", "Color"], "Mugs")
    mugs = [labelled(f"{b} mug {c}", Brand=b, Color=c).model_copy(update={"category": "Mugs"}) for b, c in BRANDS]
    shoes, _ = trained(tmp_path / "shoes")
    cups, _ = tune(mugs, [mug], settings, tmp_path / "mugs", QUICK, report="none")
    both = [open_adapter(shoes), open_adapter(cups)]
    folder, card = merge(both, settings, tmp_path / "home", weight=0.5)
    one, other, sums = updates(shoes), updates(cups), updates(folder)
    assert sums.keys() == one.keys()
    for name, update in sums.items():
        torch.testing.assert_close(update, (one[name] + other[name]) / 2, atol=1e-5, rtol=1e-3)
    assert card.schemas.keys() == {"Shoes", "Mugs"} and card.recipe["merged"] == ["shoes@1", "mugs@1"]
    assert len(read_labelled(folder / "labels.jsonl")) == card.labels == 6
    assert {(f / "template.jinja").read_text() for f in (folder, shoes)} == {load_template(card.template).source}
    rows = list(cost(both, folder, [*LABELS, *mugs], [SHOES, mug], settings))
    assert [row[:2] for row in rows] == [("shoes@1", 4), ("mugs@1", 2)]
    with pytest.raises(InputError, match="takes two adapters or more"):
        merge(both[:1], settings, tmp_path / "home")
    with pytest.raises(InputError, match="each once"):
        merge([both[0], both[0]], settings, tmp_path / "home")
    again = open_adapter(trained(tmp_path / "shoes", seed=1)[0])
    folder, card = merge([both[0], again], settings, tmp_path / "mean")  # two seeds of the same labels
    means, two = updates(folder), updates(again.folder)
    for name, update in means.items():
        torch.testing.assert_close(update, (one[name] + two[name]) / 2, atol=1e-5, rtol=1e-3)
    assert card.labels == len(read_labelled(folder / "labels.jsonl")) == 4 and card.schemas.keys() == {"Shoes"}
    with pytest.raises(InputError, match="'Shoes' is served by shoes@1 already"):
        boots, _ = tune(LABELS[:2], [SHOES], settings, tmp_path / "boots", QUICK, report="none")
        merge([both[0], open_adapter(boots)], settings, tmp_path / "home")


def test_a_search_spends_its_budget_and_goes_on_where_it_was(tmp_path):
    from finetune.search import search

    settings = load_settings(engine="huggingface", k=0, calibration="none")
    start = replace(QUICK, epochs=2, rank=4, batch=8)
    found = search(MANY, [SHOES], settings, tmp_path, start, trials=1)
    assert found["trials"] == 1 and found["best"]["rank"] == 4 and found["best"]["epochs"] == 2
    assert search(MANY, [SHOES], settings, tmp_path, start, trials=1) == found
    more = search(MANY, [SHOES], settings, tmp_path, start, trials=2)
    assert more["trials"] == 2 and more["all"][0] == found["all"][0] and more["f1"] >= found["f1"]
    assert json.loads((tmp_path / "search.json").read_text()) == more and not (tmp_path / "trial").exists()
    with pytest.raises(InputError, match="4 labels are too few to hold any out for a search; it takes 50"):
        search(LABELS, [SHOES], settings, tmp_path, start, trials=1)
    with pytest.raises(InputError, match="a search needs a budget"):
        search(MANY, [SHOES], settings, tmp_path, start)


def test_few_labels_are_better_shown_than_learned(tmp_path):
    data = tmp_path / "labels.jsonl"
    data.write_text("".join(o.model_dump_json() + "\n" for o in LABELS))
    arguments = ("--data", str(data), "--out", str(tmp_path / "a" / "shoes"), "--epochs", "1", "--report", "none")
    done = run_cli("finetune", "lora", *arguments)
    assert done.returncode == 0, done.stderr
    assert "4 labels teach an adapter little" in done.stderr and "--demonstrations" in done.stderr
    assert "shoes@1 in" in done.stdout and "adapters promote shoes@1" in done.stdout
    assert "unknown 'sft'; there are lora, rslora" in run_cli("finetune", "lora", *arguments, "--method", "sft").stderr
    assert "unknown 'noise'; there are swap" in run_cli("finetune", "lora", *arguments, "--augment", "noise").stderr
    assert "needs bitsandbytes and a GPU" in run_cli("finetune", "lora", *arguments, "--four-bit").stderr
