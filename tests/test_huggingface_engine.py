"""The bundled model in transformers: every public validation offer and every hostile title, as in vLLM."""

import pytest
from conftest import HOSTILE, HOSTILE_SCHEMA, assert_grounded

from extractor import Extractor, create_engine

pytestmark = pytest.mark.model


def test_transformers_gives_records_of_the_same_shape(shared_offers):
    offers, schemas = shared_offers
    engine = create_engine("huggingface")
    records = Extractor(engine, [*schemas, HOSTILE_SCHEMA]).extract(offers + HOSTILE)
    extractions = assert_grounded(offers + HOSTILE, records)
    assert len(extractions) > 1_250
    values = [v for r in extractions for vs in r.attributes.values() for v in vs]
    assert {v.status for v in values} == {"verbatim"} and all(v.confidence is not None for v in values)
