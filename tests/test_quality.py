"""What a store says of the model and of those who review."""

from test_feedback import BRAND, record

from extractor.quality import labelled, learnable, quality, quality_by_day, queue


def test_quality_counts_what_people_made_of_it(store, clock):
    store.add([record(f"o{i}", Brand=("boot", 0.5), Color=("red", 0.99), Size=None) for i in range(4)])
    for offer, values in {"o0": ["boot"], "o1": ["Diesel"], "o2": []}.items():
        store.decide("ann", offer, BRAND, values)
        clock.pass_by(86_400)
    found = {q.attribute: q for q in quality(store)}
    assert (found["Brand"].coverage, found["Brand"].waiting, found["Brand"].agreement) == (0.75, 1, 1 / 3)
    assert (found["Size"].coverage, found["Color"].coverage, found["Color"].agreement) == (0, 1, None)
    days = {(q.day, q.attribute): (q.offers, q.reviewed, q.agreed) for q in quality_by_day(store)}
    assert days["2026-11-26", "Brand"] == (0, 1, 1) and days["2026-11-27", "Brand"] == (0, 1, 0)
    assert days["2026-11-01", "Brand"] == (4, 0, 0)
    assert {q.day for q in quality_by_day(store, "2026-11-27")} == {"2026-11-27", "2026-11-28"}
    assert queue(store) == [("Shoes", "Brand", 1)] and learnable(store) == {"Shoes": 3}
    offers = {o.id: o for o in labelled(store)}
    assert set(offers) == {"o0", "o1", "o2"} and list(labelled(store, "Tea")) == []
    assert offers["o2"].attributes == {"Color": ["red"]} and offers["o2"].absent == ["Brand"]
