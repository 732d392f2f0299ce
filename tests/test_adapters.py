"""Adapters: the registry, promotion, and which of them answers which offer."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import labelled, run_cli

from extractor import AttributeSchema, Extractor, ProductOffer, create_engine
from extractor.adapters import CARD, Registry, fingerprint, open_adapter
from extractor.config import adapters_of, load_settings, make_extractor
from extractor.engines.models import BASE_MODEL
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import AdapterError, InputError
from extractor.prompts import load_template

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from test_lora import LABELS, SHOES, trained  # noqa: E402


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    """Two versions of one adapter."""
    root = tmp_path_factory.mktemp("adapters")
    trained(root / "shoes", epochs=8, learning_rate=1e-2)
    trained(root / "shoes", method="rslora", seed=1)
    return root


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
    listed = run_cli("adapters", "list", "--adapters", str(root)).stdout
    assert "shoes@1" in listed and "80.0" in listed and "81.0" in listed
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
    checked = json.loads(run_cli(*command, *runs, "--check").stdout)
    assert (checked["adapter"], checked["offers"], checked["enough"]) == ("shoes@1", 30, True)
    assert checked["unbeaten"] == [r["name"] for r in checked["rivals"]] == ["zero-shot", "few-shot"]
    assert "give one of them" in run_cli(*command, "--check", "--force", "--reason", "x").stderr
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
def test_vllm_serves_several_adapters_and_the_base_in_one_batch(registry, monkeypatch):
    monkeypatch.setattr("extractor.engines.vllm_offline.cpu_dtype", lambda: "float32")  # as transformers has it
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


@pytest.mark.model
def test_a_model_in_8_bits_serves_the_adapters_of_the_whole_one(registry, tmp_path):
    from safetensors.torch import load_file

    from finetune.quantize import quantize

    folder = quantize("base", tmp_path / "small")
    whole, small = (load_file(f / "model.safetensors") for f in (BASE_MODEL, folder))
    rounded = [name for name in small if small[name].dtype == torch.int8]
    assert len(rounded) == 7 * 8  # the linear layers of each of its layers
    for name in rounded:
        step = small[f"{name}_scale"].float()
        assert ((small[name] * step - whole[name].float()).abs() <= 0.52 * step + 1e-6).all(), name
    assert fingerprint(str(folder)) == fingerprint(str(BASE_MODEL))
    with pytest.raises(InputError, match="is there already"):
        quantize("base", folder)
    engine = create_engine("vllm", model=str(folder), adapters=list(Registry(registry).adapters())[:1])
    offers = [ProductOffer(id=str(i), category="Shoes", title=o.title) for i, o in enumerate(LABELS)]
    alone, adapted = (Extractor(engine, SHOES, adapter=name).extract(offers) for name in (None, "shoes@1"))
    engine.close()
    assert engine.model == "small@1" and [r.to_dict()["attributes"] for r in alone] != [
        r.to_dict()["attributes"] for r in adapted
    ]
    # rounding may move a near tie
    assert (
        sum(r.attributes["Brand"][0].value == o.attributes["Brand"][0] for r, o in zip(adapted, LABELS, strict=True))
        >= 3
    )
