"""Adapters: labels to examples, training at the smallest size, the registry, and who answers which offer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from conftest import labelled, run_cli

from extractor import AttributeSchema, Extractor, ProductOffer, create_engine, load_schemas
from extractor.adapters import CARD, Card, Registry, fingerprint, open_adapter
from extractor.config import adapters_of, load_settings, make_extractor
from extractor.engines.models import BASE_MODEL
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import AdapterError, InputError
from extractor.io import read_labelled
from extractor.prompts import PROMPTS, load_template

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from finetune.conversations import IGNORED  # noqa: E402
from finetune.dataset import AUGMENTATIONS, augmented, batches, checked, complete, divided, example  # noqa: E402
from finetune.lora import METHODS, SERVED, Recipe, tune  # noqa: E402

SHOES = AttributeSchema.from_names(["Brand", "Color", "Size"], "Shoes")
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
    assert kept == [LABELS[0], wrong.model_copy(update={"attributes": {}})] and len(problems) == 2


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


# --- training ---------------------------------------------------------------------------------------------------------

QUICK = Recipe(epochs=1, batch=2, rank=4)


def trained(out: Path, **changes) -> tuple[Path, Card]:
    settings = load_settings(engine="huggingface", k=0, calibration="none")
    return tune(LABELS, [SHOES], settings, out, replace(QUICK, **changes), report="none")


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    """Two versions of one adapter."""
    root = tmp_path_factory.mktemp("adapters")
    trained(root / "shoes", epochs=8, learning_rate=1e-2)
    trained(root / "shoes", method="rslora", seed=1)
    return root


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
    assert moved == {"3", "weight"}  # the last layer, and the norm above it
    engine = create_engine("huggingface", model=str(folder))
    assert engine.model == "shoes@1" and Extractor(engine, SHOES).extract([LABELS[0]])


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
        patch.setattr(finetune.lora, "_saved", kill)
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


def test_a_full_disk_leaves_earlier_versions_whole(registry, tmp_path, monkeypatch):
    out = tmp_path / "shoes"
    shutil.copytree(registry / "shoes", out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full(self, *arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft.PeftModel.save_pretrained", full)
    with pytest.raises((InputError, OSError), match="No space left"):
        trained(out)
    assert all(p.read_bytes() == content for p, content in before.items()) and not (out / "3").exists()


MANY = [
    labelled(f"{brand} Loafer {n}{color} EU {n + 30}", Brand=brand, Color=color, Size=f"EU {n + 30}")
    for n in range(13)
    for brand, color in (("Velmora", "Tan"), ("Oskella", "Navy"), ("Brindlow", "Black"), ("Tarn", "Olive"))
]


def test_early_stopping_goes_by_extraction(tmp_path):
    settings = load_settings(engine="huggingface", k=0, calibration="none")
    _, card = tune(MANY, [SHOES], settings, tmp_path / "shoes", replace(QUICK, epochs=2, batch=8), report="none")
    assert card.labels + card.scores["offers"] == 52 and 0 < card.scores["f1"] <= 100


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


# --- registry and routes ----------------------------------------------------------------------------------------------


def test_the_registry_remembers_promotions_and_takes_them_back(registry, tmp_path):
    root = tmp_path / "adapters"
    shutil.copytree(registry, root)
    opened = Registry(root)
    assert [a.reference for a in opened.adapters()] == ["shoes@1", "shoes@2"] and opened.serving() == {}
    assert opened.find("shoes").reference == "shoes@2"
    with pytest.raises(InputError, match=r"no adapter 'boots@1'; there are shoes@1, shoes@2"):
        opened.find("boots@1")
    opened.promote(opened.find("shoes@1"), {"f1": 80.0})
    opened.promote(opened.find("shoes@2"), {"f1": 81.0}, forced="a trial")
    opened = Registry(root)
    assert opened.serving() == {"Shoes": "shoes@2"} and opened.history[1]["forced"] == "a trial"
    assert run_cli("adapters", "rollback", "shoes", "--adapters", str(root)).stdout == "Shoes: served by shoes@1\n"
    assert "shoes@1" in run_cli("adapters", "list", "--adapters", str(root)).stdout
    shown = json.loads(run_cli("adapters", "show", "shoes@1", "--adapters", str(root)).stdout)
    assert shown["labels"] == 4 and shown["promotions"][0]["evidence"] == {"f1": 80.0}
    assert Registry(root).rollback("Shoes") == ("Shoes", None)
    with pytest.raises(InputError, match="no adapter serves 'Shoes'; served are none"):
        Registry(root).rollback("Shoes")


def test_each_offer_goes_to_the_adapter_of_its_category(registry, tmp_path):
    root = tmp_path / "adapters"
    shutil.copytree(registry, root)
    Registry(root).promote(Registry(root).find("shoes@1"), {})
    lures = AttributeSchema.from_names(["Brand"], "Lures")
    seen = []

    def script(request):
        seen.append((request.adapter, request.messages[-1]["content"]))
        names = ["Brand", "Color", "Size"] if request.adapter else ["Brand"]
        return json.dumps(dict.fromkeys(names))

    settings = load_settings(adapters=root, calibration="none")
    assert [a.reference for a in adapters_of(settings)] == ["shoes@1"]
    extractor = make_extractor(ScriptedEngine(script), settings, [SHOES, lures])
    offers = [
        ProductOffer(id="1", category="Lures", title="Velmora Minnow 5 g"),
        ProductOffer(id="2", category="Shoes", title="Velmora Clog Tan"),
    ]
    records = extractor.extract(offers)
    assert [r.provenance.adapter for r in records] == [None, "shoes@1"]
    assert {adapter: "<known>" in prompt for adapter, prompt in seen} == {None: False, "shoes@1": True}
    other = AttributeSchema.from_names(["Brand", "Heel"], "Shoes")
    with pytest.raises(AdapterError, match=r"trained for shoes@\w+, not for shoes@\w+; train it anew, roll it back"):
        make_extractor(ScriptedEngine(), settings, [other, lures])


def test_an_adapter_that_does_not_belong_is_refused(registry, tmp_path):
    folder = tmp_path / "shoes"
    shutil.copytree(registry / "shoes" / "1", folder)
    card = json.loads((folder / CARD).read_text())
    assert card["base_fingerprint"] == fingerprint(str(BASE_MODEL))
    (folder / CARD).write_text(json.dumps(card | {"base_fingerprint": "0" * 16}))
    with pytest.raises(AdapterError, match=r"made for base@\d+, and .* has other weights; train it anew"):
        create_engine("huggingface", adapters=[open_adapter(folder)])
    (folder / CARD).write_text(json.dumps(card | {"template_sha256": "0" * 64}))
    with pytest.raises(AdapterError, match=r"its template .* has changed since it was trained"):
        make_extractor(ScriptedEngine(), load_settings(adapter=folder, calibration="none"), [SHOES])
    (folder / CARD).write_text("{")
    with pytest.raises(AdapterError, match=r"adapter\.json: not the card of an adapter"):
        open_adapter(folder)
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        open_adapter(tmp_path)


def test_only_what_wins_is_promoted_unless_it_is_forced_with_a_reason(registry, tmp_path):
    root, data = tmp_path / "adapters", tmp_path / "held_out.jsonl"
    shutil.copytree(registry, root)
    offers = [
        labelled(f"Velmora Clog Tan {i}", Brand="Velmora", Color="Tan").model_dump_json() + "\n" for i in range(30)
    ]
    data.write_text("".join(offers))
    shoes = tmp_path / "shoes.yaml"
    shoes.write_text("category: Shoes\nattributes: [{name: Brand}, {name: Color}, {name: Size}]\n")
    command = ("adapters", "promote", "shoes@1", "--adapters", str(root), "--data", str(data), "--engine", "scripted")
    runs = ("--out", str(tmp_path / "runs"), "--schema", str(shoes))
    assert "was trained for shoes@" in run_cli(*command, *runs[:2]).stderr  # these labels name no size
    refused = run_cli(*command, *runs)
    assert refused.returncode == 2 and "is not better than zero-shot, few-shot beyond chance" in refused.stderr
    assert Registry(root).serving() == {}
    assert "say why with --reason" in run_cli(*command, "--force").stderr
    assert run_cli(*command, *runs, "--force", "--reason", "a trial").stdout.endswith("shoes@1 serves Shoes\n")
    entry = Registry(root).history[0]
    assert entry["forced"] == "a trial" and [r["name"] for r in entry["evidence"]["rivals"]] == [
        "zero-shot",
        "few-shot",
    ]
    data.write_text("".join(offers[:29]))
    assert "29 held-out offers are too few to tell; give 30 or more" in run_cli(*command, *runs).stderr
    data.write_text(LABELS[0].model_dump_json() + "\n")
    assert "take demonstrations from a training split" in run_cli(*command).stderr


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


def test_adapters_are_an_arm_of_the_comparison(tmp_path):
    from eval import compare
    from eval.datasets import load_dataset
    from finetune.learner import Adapters

    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(o.model_dump_json() + "\n" for o in LABELS))
    training, validation = (load_dataset(tmp_path, split) for split in ("train", "validation"))
    learners = {"lora": Adapters(load_settings(calibration="none"))}
    arms = list(compare.plan(compare.named("lora", learners), [0, 2, None], 2, len(training.offers)))
    assert arms == [("lora", 2, 0), ("lora", 2, 1), ("lora", None, 0), ("lora", None, 1)]

    def made(chosen):
        return compare.compare(
            training, validation, chosen, load_settings(), None, tmp_path / "runs", epochs=0.03, learners=learners
        )

    first = made(arms[1:3])
    assert [a.labels for a in first] == [2, 4] and len(first[0].run.predictions) == 4
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("predictions.jsonl")}
    again = made(arms[1:3])  # nothing is trained twice
    assert [a.run.folder for a in again] == [a.run.folder for a in first]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    with pytest.raises(InputError, match="unknown system 'lora'"):
        compare.named("lora")


@pytest.mark.parametrize(("tokens", "slots"), [(37, 5), (200, 3), (64, 50), (5, 1)])
@pytest.mark.parametrize("skewed", [False, True])
def test_grouped_products_are_those_of_vllm_and_none_without_an_adapter(tokens, slots, skewed):
    from vllm.lora.ops.torch_ops import lora_ops

    from extractor.engines import lora_on_cpu as ours

    torch.manual_seed(tokens)
    indices = torch.randint(0, slots, (tokens,))
    if skewed:
        indices[: tokens * 3 // 4] = 0
    x, a, b = torch.randn(tokens, 24), torch.randn(slots, 1, 8, 24), torch.randn(slots, 1, 40, 8)

    def made(ops, given):
        shrunk, sliced, whole = torch.zeros(tokens, 8), torch.ones(tokens, 100), torch.ones(tokens, 44)
        ops.bgmv_shrink(x, a, shrunk, given, 0.5)
        ops.bgmv_expand_slice(shrunk, b, sliced, given, 30, 40, True)
        ops.bgmv_expand(shrunk, b, whole, given, True)
        return torch.cat([shrunk, sliced, whole], 1)

    expected = made(lora_ops, indices)
    assert torch.allclose(made(ours, indices), expected, atol=1e-5)
    without = torch.arange(tokens) % 3 == 0
    found = made(ours, indices.masked_fill(without, -1))
    assert torch.allclose(found[~without], expected[~without], atol=1e-5)
    assert torch.equal(found[without], torch.cat([torch.zeros(8), torch.ones(144)]).expand(int(without.sum()), -1))
    assert torch.equal(made(ours, torch.full((tokens,), -1))[:, 8:], torch.ones(tokens, 144))


@pytest.mark.model
def test_vllm_serves_several_adapters_and_the_base_in_one_batch(registry):
    found = list(Registry(registry).adapters())
    engine = create_engine("vllm", adapters=found)
    template = load_template("extract")
    offers = [ProductOffer(id=str(i), category="Shoes", title=o.title) for i, o in enumerate(LABELS)]
    extractors = {name: Extractor(engine, SHOES, template, adapter=name) for name in ("shoes@1", "shoes@2", None)}
    alone = {name: [r.to_dict()["attributes"] for r in e.extract(offers)] for name, e in extractors.items()}
    assert alone["shoes@1"] != alone[None]
    requests = []
    for extractor in extractors.values():
        kept = ScriptedEngine(
            lambda request: requests.append(request) or '{"Brand": null, "Color": null, "Size": null}'
        )
        Extractor(kept, SHOES, template, adapter=extractor.asking.adapter).extract(offers)
    mixed = engine.generate([requests[i * len(offers) + j] for j in range(len(offers)) for i in range(3)])
    for i, name in enumerate(extractors):
        separate = engine.generate(requests[i * len(offers) : (i + 1) * len(offers)])
        assert [g.text for g in mixed[i::3]] == [g.text for g in separate], name
    other = create_engine("huggingface", adapters=found).generate(requests)
    assert [sum(g.logprobs) for g in engine.generate(requests)] == pytest.approx(
        [sum(g.logprobs) for g in other], abs=0.02
    )
    engine.close()
    # what was learned by heart is answered
    assert [a["Brand"][0]["value"] for a in alone["shoes@1"] if a["Brand"]] == [
        o.attributes["Brand"][0] for o in LABELS
    ]
