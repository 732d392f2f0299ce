"""Attributes whose values need not stand in the offer: enum, boolean and number; what their training labels say."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.baselines.bio import Floats, softmax
from extractor.answer import AnswerValue
from extractor.errors import InputError
from extractor.normalize import resolve
from extractor.records import AttributeValue, LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema

ABSENT = ""  # the class of offers that are known to have no value


@dataclass(frozen=True)
class Target:
    """What is predicted of one attribute: one of `classes`, or for a number (no classes) its value as `mean` plus `deviation`
    times the output, written with `decimals`."""

    attribute: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    decimals: int = 0

    @property
    def width(self) -> int:
        return len(self.classes) or 1

    def encoded(self, offer: LabelledOffer) -> float | None:
        """The label as a place in `classes` or as a standardized number; None where it is unknown. Of alternatives, the first
        is taken."""
        values = offer.attributes.get(self.attribute)
        if not self.classes:
            return (_number(values[0], offer, self.attribute) - self.mean) / self.deviation if values else None
        label = values[0].strip() if values else ABSENT if self.attribute in offer.absent else None
        return float(self.classes.index(label)) if label in self.classes else None

    def written(self, output: float) -> str:
        """A number as its labels are written."""
        return f"{self.mean + self.deviation * output:.{self.decimals}f}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Target":
        return cls(**content | {"classes": tuple(content["classes"])})


def targets(training: Sequence[LabelledOffer], schemas: Iterable[AttributeSchema], *, with_text: bool) -> list[Target]:
    """A target for each attribute that has training labels. `with_text`: values of text attributes are classes too, else text
    attributes have no target. Raises InputError for a label outside an enum's values, or that is no number."""
    kinds: dict[str, list[Attribute]] = {}
    for schema in schemas:
        for attribute in schema.attributes:
            kinds.setdefault(attribute.name, []).append(attribute)
    found = []
    for name, attributes in kinds.items():
        labelled = [o for o in training if o.attributes.get(name)]
        if not labelled or (attributes[0].type == "text" and not with_text):
            continue
        if attributes[0].type == "number":
            found.append(_number_target(name, labelled))
            continue
        allowed = {v for a in attributes for v in a.values} or (
            {"true", "false"} if attributes[0].type == "boolean" else None
        )
        values = set()
        for offer in labelled:
            value = offer.attributes[name][0].strip()
            if allowed and value not in allowed:
                raise InputError(
                    f"offer {offer.id!r}: {name} is {value!r}, which is not among {', '.join(sorted(allowed))}"
                )
            values.add(value)
        absent = [ABSENT] if any(name in o.absent for o in training) else []
        found.append(Target(name, (*absent, *sorted(values))))
    return found


def _number_target(name: str, labelled: Sequence[LabelledOffer]) -> Target:
    numbers = [_number(o.attributes[name][0], o, name) for o in labelled]
    mean = sum(numbers) / len(numbers)
    deviation = (sum((n - mean) ** 2 for n in numbers) / len(numbers)) ** 0.5
    decimals = max(len(o.attributes[name][0].strip().partition(".")[2]) for o in labelled)
    return Target(name, (), mean, deviation or 1.0, decimals)


def _number(text: str, offer: LabelledOffer, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"offer {offer.id!r}: {name} is {text!r}, which is no number") from error


def answers(attribute: Attribute, target: Target, logits: Floats, offer: ProductOffer) -> list[AttributeValue]:
    """The value that the outputs of a target say: the likeliest class, perhaps that of absence, or the number."""
    if target.classes:
        allowed = np.array([not attribute.values or c in (ABSENT, *attribute.values) for c in target.classes])
        if not allowed.any():
            return []
        probabilities = softmax(logits, allowed)
        best = int(probabilities.argmax())
        value, confidence = target.classes[best], float(probabilities[best])
    else:
        value, confidence = target.written(float(logits[0])), None
    if value == ABSENT:
        return []
    texts = offer.texts()
    return [resolve(attribute, AnswerValue(value, 0, 0), texts, texts, confidence)]
