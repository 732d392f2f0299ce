"""Shelfwise: untidy product offers in, clean attribute records out."""

from extractor.confidence import load_calibration
from extractor.demonstrations import DemonstrationPool
from extractor.engines import create_engine
from extractor.errors import ShelfwiseError
from extractor.extract import Extractor
from extractor.prompts import load_template
from extractor.records import AttributeValue, Evidence, Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema, load_schema, load_schemas

__all__ = [
    "Attribute",
    "AttributeSchema",
    "AttributeValue",
    "DemonstrationPool",
    "Evidence",
    "Extraction",
    "Extractor",
    "Failure",
    "LabelledOffer",
    "ProductOffer",
    "ShelfwiseError",
    "create_engine",
    "load_calibration",
    "load_schema",
    "load_schemas",
    "load_template",
]
