"""The store, on SQLite and on PostgreSQL: nothing decided is lost, and nobody gets what another has."""

import random
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from conftest import HOSTILE

from extractor import Attribute, AttributeValue, Evidence, Extraction
from extractor.cells import Undone, placed
from extractor.errors import ConflictError, InputError
from extractor.feedback import Thresholds
from extractor.quality import labelled, pace, quality, waiting
from extractor.records import Provenance, Usage

BRAND, COLOR = Attribute(name="Brand"), Attribute(name="Color", multiple=True)
WIDTH = Attribute(name="Width", type="enum", values=("narrow", "wide"))
PROVENANCE = {"model": "base@5", "engine": "scripted", "template": "extract@2", "template_sha256": "0", "schema": "s@1"}
USAGE = Usage(prompt_tokens=1, cached_tokens=0, output_tokens=1)


def value(title, found, confidence=0.5):
    begin = title.index(found)
    place = Evidence(field="title", begin=begin, end=begin + len(found))
    return AttributeValue(value=found, status="verbatim", confidence=confidence, evidence=place)


def record(identity, title="Diesel boot, red", created="2026-11-01T00:00:00+00:00", category="Shoes", **values):
    """An extraction; each value is (text, confidence), or None for no value."""
    return Extraction(
        offer_id=identity,
        category=category,
        title=title,
        description=None,
        attributes={name: [value(title, *v)] if v else [] for name, v in values.items()},
        provenance=Provenance(created=created, **PROVENANCE),
        usage=USAGE,
    )


def ids(items):
    return [item.offer_id for item in items]


def brands(store, *offers):
    return [[v.value for v in r.attributes["Brand"]] for r in store.records(offers)]


def test_a_queue_goes_from_the_most_uncertain_to_the_threshold(store):
    confidences = {"a": 0.7, "b": 0.2, "c": 0.95, "d": 0.9, "e": None, "f": 0.3}
    store.add([record(k, Brand=("Diesel", c), Color=("red", 0.99), Size=None) for k, c in confidences.items()])
    assert waiting(store) == 4
    assert ids(store.claim("ann", 2)) == ["e", "b"]
    item = store.claim("ben", 1)[0]
    assert (item.offer_id, item.attribute, item.title, item.alike) == ("f", "Brand", "Diesel boot, red", 4)
    assert item.values == [value("Diesel boot, red", "Diesel", 0.3)]
    store.thresholds = Thresholds(0.9, {"Color": None, "Brand": 0.1})
    assert {i.attribute for i in store.claim("cem", 50)} == {"Color"}
    assert waiting(store, attribute="Brand") == 1 and waiting(store, category="Shoes") == 7
    assert store.claim("dan", category="Tea") == [] and waiting(store, category="Tea") == 0


def test_the_most_frequent_come_one_of_a_kind_and_are_accepted_at_once(store):
    titles = {"Diesel boot": 5, "Velmora boot": 3, "Tarn boot": 1}
    numbers = count()
    store.add([record(f"o{next(numbers)}", t, Brand=(t.split()[0], 0.5)) for t, n in titles.items() for _ in range(n)])
    claimed = store.claim("ann", 2, "frequent")
    assert [(i.values[0].value, i.alike) for i in claimed] == [("Diesel", 5), ("Velmora", 3)]
    assert store.claim("ben", 1, "frequent")[0].values[0].value == "Diesel"
    assert store.decide_alike("ann", "Shoes", "Brand", ["Diesel"]).n == 4  # one is in Ben's hands
    for who, category, found in (("ann", "Shoes", ["Diesel"]), ("ann", "Shoes", ["Diesel", "x"]), ("x", "T", ["Tarn"])):
        assert store.decide_alike(who, category, "Brand", found).n == 0
    assert pace(store, "ann") == pace(store) and pace(store).today == 4 and pace(store).pace == 0.1
    assert store.undo("ann").n == 4 and waiting(store) == 9 and pace(store).today == 0


def test_a_lease_keeps_others_away_until_it_runs_out(store, clock):
    store.add([record("a", Brand=("Diesel", 0.1))])
    assert ids(store.claim("ann", lease=60)) == ["a"] and store.claim("ben") == [] == store.claim("ann")
    with pytest.raises(ConflictError, match="ann is at it"):
        store.decide("ben", "a", BRAND, [])
    clock.pass_by(60)
    assert ids(store.claim("ben", lease=60)) == ["a"]
    store.release("ann")
    assert store.claim("cem") == []
    store.release("ben")
    assert ids(store.claim("cem")) == ["a"]
    assert store.decide("cem", "a", BRAND, ["Diesel"]).decision == "accepted"
    clock.pass_by(10_000)
    assert store.claim("ann") == []
    with pytest.raises(ConflictError, match="cem decided at 2026-11-26T12:01:00"):
        store.decide("ann", "a", BRAND, [])
    assert store.decide("ann", "a", BRAND, [], revise=True).decision == "rejected"


def test_decisions(store):
    title = "Diesel boot, red and blue, wide"
    wide = AttributeValue(value="narrow", status="inferred", confidence=0.2)
    made = record("a", title, Brand=("boot", 0.2), Color=("red", 0.1))
    store.add([made.model_copy(update={"attributes": {**made.attributes, "Width": [wide]}})])
    span = Evidence(field="title", begin=0, end=6)
    assert store.decide("ann", "a", BRAND, [span]).decision == "changed"
    assert store.decide("ann", "a", BRAND, [span]).decision == "changed"  # a request that was sent twice
    assert store.decide("ann", "a", COLOR, ["red", "blue"]).decision == "changed"
    assert store.decide("ann", "a", WIDTH, ["wide"]).decision == "changed"
    found = store.records(["?", "a"])[0]
    assert found.attributes["Brand"] == [value(title, "Diesel", None)]
    assert found.attributes["Color"] == [value(title, "red", 0.1), value(title, "blue", None)]
    assert found.attributes["Width"] == [value(title, "wide", None)]
    assert pace(store).today == 3
    assert next(labelled(store)).attributes == {"Brand": ["Diesel"], "Color": ["red", "blue"], "Width": ["wide"]}


@pytest.mark.parametrize(
    ("attribute", "values", "message"),
    [
        (BRAND, [Evidence(field="title", begin=3, end=99)], "no span from 3 to 99; it may have changed"),
        (BRAND, [Evidence(field="description", begin=0, end=1)], "description has no span"),
        (BRAND, ["Velmora"], "'Velmora' is not in the offer's text"),
        (BRAND, [" "], "a blank is no value"),
        (BRAND, ["boot", "red"], "takes one value, not 2"),
        (WIDTH, ["wider"], "is not among"),
        (Attribute(name="Size"), [], "no extraction of 'Size' from an offer 'a'"),
    ],
)
def test_what_no_extraction_could_give_is_refused(store, attribute, values, message):
    store.add([record("a", Brand=("Diesel", 0.2), Width=("red", 0.1))])
    with pytest.raises(InputError, match=message):
        store.decide("ann", "a", attribute, values)
    assert pace(store).today == 0


def test_a_decision_stands_above_every_later_extraction(store):
    store.add([record("a", Brand=("boot", 0.2), Color=("red", 0.2))])
    store.decide("ann", "a", BRAND, ["Diesel"])
    later = record("a", "NEW! Diesel boot", "2026-11-02T00:00:00Z", Brand=("NEW", 0.99), Size=None)
    early = record("a", "An old text", "2026-10-01T00:00:00", Brand=("old", 0.1))
    assert store.add([later, early, later]) == 2 and store.add([early]) == 0
    found = store.records(["a"])[0]
    assert found.title == later.title and set(found.attributes) == {"Brand", "Size"}
    assert found.attributes["Brand"] == [value(later.title, "Diesel", None)]
    assert waiting(store) == 0
    store.add([record("a", "A boot", "2026-11-03T00:00:00Z", Color=("boot", 0.9))])
    assert store.records(["a"])[0].attributes["Brand"][0].status == "inferred"
    assert list(labelled(store)) == []  # Diesel stands nowhere in it now
    assert [i.values for i in store.undo("ann").items] == [[]]


def test_what_is_sent_twice_is_done_once(store):
    store.add([record(f"o{i}", Brand=("Diesel", 0.5)) for i in range(5)])
    first = store.decide("ann", "o0", BRAND, ["boot"])
    again = store.decide("ann", "o0", BRAND, ["boot"])
    assert (first.n, again.n) == (1, 0) and again.id == first.id
    rest = store.decide_alike("ann", "Shoes", "Brand", ["Diesel"])
    assert store.undo("ben", first.id) == store.undo("ann", "no act") == Undone(0, [])
    for n in (1, 0):  # one that is not the last, too
        undone = store.undo("ann", first.id)
        assert (undone.n, ids(undone.items)) == (n, ["o0"])
    undone = store.undo("ann", rest.id, most=2)
    assert (undone.n, ids(undone.items)) == (4, ["o1", "o2"])
    assert ids(store.claim("ben")) == ["o3", "o4"]


def test_a_decided_value_finds_its_new_place():
    red = AttributeValue(value="Red", status="normalized", evidence=Evidence(field="title", begin=0, end=3))
    assert placed("Color", red, {"title": "RED boot"}) == red
    moved = placed("Color", red, {"title": "boot", "description": "in red"})
    assert moved.evidence == Evidence(field="description", begin=3, end=6)
    assert placed("Color", red, {"title": "boot"}).status == "inferred"


def test_random_acts_against_a_plain_model(store, clock):
    """Claims, decisions, undoing, later extractions and time, in any order."""
    rng = random.Random(7)
    people, names, words = ["ann", "ben"], [f"o{i}" for i in range(6)], ["Diesel", "boot", "red"]
    said = {n: ("boot", rng.random()) for n in names}
    store.add([record(n, Brand=v) for n, v in said.items()])
    log: list[tuple[str, list[tuple[str, str]]]] = []  # acts that count: who, [(offer, value)]
    leases: dict[str, tuple[str, datetime]] = {}

    def standing():
        return {offer: (who, v) for who, act in log for offer, v in act}

    def taken(offer, who=None):
        by, until = leases.get(offer, ("", clock.now))
        return until > clock.now and by != who

    def waits():
        return sorted((c, n) for n, (_, c) in said.items() if c < 0.9 and n not in standing())

    for step in range(150):
        who, offer, word = rng.choice(people), rng.choice(names), rng.choice(words)
        match rng.choice(
            ["claim", "decide", "decide", "revise", "alike", "undo", "undo", "extract", "time", "release"]
        ):
            case "claim":
                expected = [n for _, n in waits() if not taken(n)][:2]
                assert ids(store.claim(who, 2)) == expected, step
                leases |= {n: (who, clock.now + timedelta(seconds=600)) for n in expected}
            case "decide" | "revise" as kind:
                now = standing().get(offer)
                refused = taken(offer, who) if now is None else kind == "decide" and now != (who, word)
                if refused:
                    with pytest.raises(ConflictError):
                        store.decide(who, offer, BRAND, [word], revise=kind == "revise")
                    continue
                store.decide(who, offer, BRAND, [word], revise=kind == "revise")
                if now != (who, word):
                    log.append((who, [(offer, word)]))
                    leases.pop(offer, None)
            case "alike":
                expected = [n for _, n in waits() if said[n][0] == word and not taken(n, who)]
                assert store.decide_alike(who, "Shoes", "Brand", [word]).n == len(expected), step
                log += [(who, [(n, word) for n in expected])] if expected else []
                for n in expected:
                    leases.pop(n, None)
            case "undo":
                last = next((act for act in reversed(log) if act[0] == who), None)
                undone = [n for n, _ in last[1]] if last else []
                assert sorted(ids(store.undo(who).items)) == sorted(undone), step
                leases |= {n: (who, clock.now + timedelta(seconds=600)) for n in undone}
                log = [act for act in log if act is not last]
            case "extract":
                said[offer] = (word, rng.random())
                created = datetime(2026, 11, 2, tzinfo=UTC) + timedelta(seconds=step)
                store.add([record(offer, created=created.isoformat(), Brand=said[offer])])
            case "time":
                clock.pass_by(400)
            case "release":
                store.release(who)
                leases = {n: lease for n, lease in leases.items() if lease[0] != who or n in standing()}
        expected = {n: standing()[n][1] if n in standing() else said[n][0] for n in names}
        assert brands(store, *names) == [[expected[n]] for n in names], step
        assert waiting(store) == len(waits()), step
        assert pace(store).today == sum(len(act) for _, act in log), step


def test_hostile_texts_come_back_as_they_were(store):
    made = [record(o.title[:400], o.title, category=o.title[:100], Brand=(o.title[:80], 0.5)) for o in HOSTILE[:300]]
    made = list({r.offer_id: r for r in made}.values())
    store.add(made)
    assert store.records([r.offer_id for r in made]) == made
    names = {(r.offer_id, r.category): r for r in made}
    claimed = store.claim("a\0\\0", 300)
    assert len(claimed) == len(made)
    for item in claimed:
        original = names[item.offer_id, item.category]
        assert (item.title, item.values) == (original.title, original.attributes["Brand"])
        if item.offer_id in (made[0].offer_id, made[7].offer_id):
            store.decide("a\0\\0", item.offer_id, BRAND, [Evidence(field="title", begin=0, end=1)])
    assert pace(store, "a\0\\0").today == 2 and store.undo("a\0\\0").n == 1
    assert {q.category for q in quality(store)} == {r.category for r in made}


def test_names_that_no_index_takes_and_times_that_are_none_are_refused_whole(store):
    with pytest.raises(InputError, match="its id has more than 500 characters"):
        store.add([record("a", Brand=None), record("\U0001f525" * 501, Brand=None)])
    for nameless in (record("", Brand=None), record("a", **{"": None})):
        with pytest.raises(InputError, match="has no name"):
            store.add([nameless])
    for wrong in ("yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00"):
        with pytest.raises(InputError, match="no time"):
            store.add([record("a", created=wrong, Brand=None)])
    rng = random.Random(1)
    store.add(
        [record("".join(chr(rng.randrange(0x10000, 0x30000)) for _ in range(500)), category="\\" * 100, Brand=None)]
    )
    assert store.records(["a"]) == []


NO_TEXT = "\ud83d"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": " "}, "'a': the offer has no text"),
        ({"title": "", "description": ""}, "has no text"),
        ({"title": NO_TEXT}, "'a': title: half a surrogate pair"),
        ({"offer_id": NO_TEXT}, "id: .* unicode string"),
        ({"attributes": {NO_TEXT: []}}, "'a': half a surrogate pair"),
        ({"attributes": {"Brand": [AttributeValue(value="x", status="inferred", normalized_value=NO_TEXT)]}}, "half"),
    ],
)
def test_what_no_offer_may_be_is_no_record_either(store, changes, message):
    with pytest.raises(InputError, match=message):
        store.add([record("b", Brand=None), record("a").model_copy(update=changes)])
    assert store.records(["a", "b"]) == []
    assert store.add([record("a", "").model_copy(update={"description": "Diesel boot"})]) == 1
