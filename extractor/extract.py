"""The flow, and nothing else: offers -> prompts and constraints -> one call to the engine -> records.

extractor = Extractor(create_engine("vllm"), load_schemas(Path("prompts/schemas")))
records = extractor.extract([ProductOffer(id="1", category="Shoes", title="Velmora Suede Loafer, EU 42")])
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from extractor.answer import MAX_VALUES, AnswerValue, parse_answer
from extractor.confidence import Calibration, span_confidence, token_ends
from extractor.constraints import Grounding, build_constraint
from extractor.demonstrations import DemonstrationPool
from extractor.engines.base import Engine, Generation, GenerationRequest
from extractor.errors import InputError
from extractor.normalize import resolve
from extractor.pii import masked
from extractor.prompts import Known, Message, Template, load_template, neutralize
from extractor.records import (
    Extraction,
    Failure,
    FailureDetail,
    FailureReason,
    LabelledOffer,
    ProductOffer,
    Provenance,
    Usage,
)
from extractor.schema import AttributeSchema, category_key
from extractor.vocabulary import Vocabulary

TOKENS_PER_VALUE = 40  # room for one answered value; a schema's answer gets this for each of its values, and its keys


@dataclass(frozen=True)
class Asking:
    """How the offers of a category are asked about, by which weights, and what the confidences are worth. `adapter` is the
    reference of one that the engine holds, None the model alone."""

    template: Template
    demonstrations: DemonstrationPool
    vocabulary: Vocabulary
    adapter: str | None = None
    calibration: Calibration | None = None


class OwnOffer(ProductOffer):
    """An offer that brings the schema it is asked by, whatever its category."""

    asked_by: AttributeSchema


@dataclass
class _Task:
    """One offer on its way: `shown` are its texts as the prompt has them, offset for offset those of `offer`."""

    place: int
    offer: ProductOffer
    schema: AttributeSchema
    asking: Asking
    request: GenerationRequest
    shown: dict[str, str]
    provenance: Provenance
    truncated: bool = False


class Extractor:
    """Extracts attribute records from product offers.

    `schemas`: one serves every offer; several serve each the offers of its category. `vocabulary`: known values that prompts
    show; by default those of the schemas. `grounding` "strict" lets text attributes only be spans of the offer, "off" any string.
    `truncate` cuts an offer that overflows the model's context at a word, description first, and says so in its record; else
    it is a Failure. `calibration` is applied to every confidence; that of another model is refused (InputError). `adapter` serves
    all offers, or those of the categories that `routes` does not name. `mask_pii`: prompts and records have the offers' texts
    masked (`extractor.pii`)."""

    def __init__(
        self,
        engine: Engine,
        schemas: AttributeSchema | Iterable[AttributeSchema],
        template: str | Template = "extract",
        *,
        demonstrations: DemonstrationPool | None = None,
        vocabulary: Vocabulary | None = None,
        grounding: Grounding = "strict",
        truncate: bool = False,
        calibration: Calibration | None = None,
        adapter: str | None = None,
        routes: Mapping[str, Asking] | None = None,
        mask_pii: bool = False,
    ) -> None:
        self.engine = engine
        self.schemas = [schemas] if isinstance(schemas, AttributeSchema) else list(schemas)
        if not self.schemas:
            raise InputError("no schema given")
        self.asking = Asking(
            load_template(template) if isinstance(template, str) else template,
            demonstrations or DemonstrationPool([]),
            Vocabulary(self.schemas) if vocabulary is None else vocabulary,
            adapter,
            calibration,
        )
        self._routes = {category_key(category): asking for category, asking in (routes or {}).items()}
        self.grounding: Grounding = grounding
        self.truncate = truncate
        self.mask_pii = mask_pii
        for asking in (self.asking, *self._routes.values()):
            if asking.calibration:
                asking.calibration.check(engine.model, asking.adapter)
        self._by_category = {category_key(s.category): s for s in self.schemas}
        self._revised = lru_cache(maxsize=32)(Vocabulary.revised)  # offers may bring any number of schemas

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        """One record or failure for each offer, in order. Raises EngineError only where no offer can be answered."""
        offers = self._shown(offers)
        results: list[Extraction | Failure | None] = [None] * len(offers)
        tasks: list[_Task] = []
        made: dict[str, Provenance] = {}
        for place, offer in enumerate(offers):
            schema = self.schema_for(offer)
            if schema is None:
                results[place] = unknown_category(offer, self.schemas)
                continue
            if schema.fingerprint not in made:
                made[schema.fingerprint] = self._provenance(schema)
            tasks.append(self._task(place, offer, schema, made[schema.fingerprint]))
        # Offers of a category together: the prefix cache then serves what they share, and an adapter stays loaded.
        tasks.sort(key=lambda task: task.schema.fingerprint)
        while tasks:
            generations = self.engine.generate([task.request for task in tasks])
            again: list[_Task] = []
            for task, generation in zip(tasks, generations, strict=True):
                shorter = self._shortened(task, generation) if generation.finish_reason == "overflow" else None
                if shorter:
                    again.append(shorter)
                else:
                    results[task.place] = self._record(task, generation)
            tasks = again
        return [result for result in results if result is not None]

    def schema_for(self, offer: ProductOffer) -> AttributeSchema | None:
        """The schema of the offer's category, or the only one there is; or the offer's own."""
        if isinstance(offer, OwnOffer):
            return offer.asked_by
        if len(self.schemas) == 1:
            return self.schemas[0]
        return self._by_category.get(category_key(offer.category))

    def _task(
        self, place: int, offer: ProductOffer, schema: AttributeSchema, provenance: Provenance, truncated: bool = False
    ) -> _Task:
        shown = {field: neutralize(text) for field, text in offer.texts().items()}
        constraint = build_constraint(schema, shown, self.grounding)
        asking = self._asking(schema)
        request = GenerationRequest(self.prompt(offer, schema), constraint, answer_bound(schema), asking.adapter)
        return _Task(place, offer, schema, asking, request, shown, provenance, truncated)

    def _shown(self, offers: Sequence[ProductOffer]) -> Sequence[ProductOffer]:
        return [masked(offer) for offer in offers] if self.mask_pii else offers

    def _asking(self, schema: AttributeSchema) -> Asking:
        key = category_key(schema.category)
        # An offer's own schema may have the category's name, and an adapter was trained for the category's schema alone.
        return self._routes.get(key, self.asking) if self._by_category.get(key) == schema else self.asking

    def prompt(self, offer: ProductOffer, schema: AttributeSchema) -> list[Message]:
        """What the model is asked about an offer; training asks the same."""
        return self.template_for(schema).render(schema, *self.shown(offer, schema))

    def template_for(self, schema: AttributeSchema) -> Template:
        return self._asking(schema).template

    def shown(self, offer: ProductOffer, schema: AttributeSchema) -> tuple[ProductOffer, list[LabelledOffer], Known]:
        """What a prompt shows: the offer, demonstrations, and what knows the values in their texts."""
        (offer,) = self._shown([offer])
        asking = self._asking(schema)
        served = self._by_category.get(category_key(schema.category)) == schema
        vocabulary = asking.vocabulary if served else self._revised(asking.vocabulary, schema)
        return offer, asking.demonstrations.choose(offer, schema), vocabulary.known

    def _shortened(self, task: _Task, generation: Generation) -> _Task | None:
        """The same offer cut to what fits by its share of the tokens; None if nothing is left to cut, or cutting is off."""
        excess = generation.prompt_tokens + task.request.max_tokens - generation.context
        if not self.truncate or excess <= 0:
            return None
        offer = task.offer
        length = sum(map(len, offer.texts().values()))
        # Text may cost up to four tokens a character, and rounds are few: cut a tenth more than the average says.
        keep = length - max(1, math.ceil(1.1 * excess * length / generation.prompt_tokens))
        if keep < 1:
            return None
        title = cut_at_word(offer.title, keep)
        description = cut_at_word(offer.description, keep - len(title)) if offer.description else None
        if not title and not description:
            return None
        shorter = offer.model_copy(update={"title": title, "description": description or None})
        return self._task(task.place, shorter, task.schema, task.provenance, truncated=True)

    def _record(self, task: _Task, generation: Generation) -> Extraction | Failure:
        match generation.finish_reason:
            case "overflow":
                hint = (
                    "" if self.truncate else "; shorten the offer, give fewer demonstrations, or cut it with --truncate"
                )
                return _failure(task.offer, task.provenance, "context_overflow", generation.message + hint)
            case "error":
                return _failure(task.offer, task.provenance, "engine_error", generation.message)
            case "length":
                message = f"the answer reached its limit of {task.request.max_tokens} tokens"
                return _failure(task.offer, task.provenance, "output_truncated", message, generation.text)
        try:
            answer = parse_answer(task.schema, generation.text)
        except ValueError as error:
            return _failure(task.offer, task.provenance, "invalid_output", str(error), generation.text)
        return self._extraction(task, generation, answer)

    def _extraction(self, task: _Task, generation: Generation, answer: dict[str, list[AnswerValue]]) -> Extraction:
        offer, original = task.offer, task.offer.texts()
        ends = token_ends(generation.pieces, generation.text)
        attributes = {}
        for attribute in task.schema.attributes:
            attributes[attribute.name] = [
                resolve(
                    attribute,
                    value,
                    task.shown,
                    original,
                    _calibrated(task.asking, span_confidence(ends, generation.logprobs, value.begin, value.end)),
                )
                for value in answer[attribute.name]
            ]
        # Built from checked parts: see normalize.resolve.
        return Extraction.model_construct(
            offer_id=offer.id,
            category=offer.category,
            title=offer.title,
            description=offer.description,
            attributes=attributes,
            truncated=task.truncated,
            provenance=task.provenance,
            usage=Usage.model_construct(
                prompt_tokens=generation.prompt_tokens,
                cached_tokens=generation.cached_tokens,
                output_tokens=generation.output_tokens,
            ),
        )

    def _provenance(self, schema: AttributeSchema) -> Provenance:
        asking = self._asking(schema)
        return Provenance.model_construct(
            model=self.engine.model,
            adapter=asking.adapter,
            engine=self.engine.name,
            template=asking.template.reference,
            template_sha256=asking.template.sha256,
            schema_=schema.reference,
            calibration=asking.calibration.reference if asking.calibration else None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def unknown_category(offer: ProductOffer, schemas: Iterable[AttributeSchema]) -> Failure:
    known = ", ".join(sorted(str(s.category) for s in schemas))
    message = f"no schema for category {offer.category!r}; there are schemas for {known}"
    if offer.category is None:
        message = f"the offer names no category, and there are several schemas: {known}"
    return _failure(offer, None, "unknown_category", message)


def _calibrated(asking: Asking, raw: float | None) -> float | None:
    return raw if raw is None or asking.calibration is None else asking.calibration(raw)


def _failure(
    offer: ProductOffer, provenance: Provenance | None, reason: FailureReason, message: str, output: str | None = None
) -> Failure:
    return Failure(
        offer_id=offer.id,
        category=offer.category,
        title=offer.title,
        description=offer.description,
        failure=FailureDetail(reason=reason, message=message),
        output=output,
        provenance=provenance,
    )


def answer_bound(schema: AttributeSchema) -> int:
    """The tokens that an answer may take; the model's context must hold them beside the prompt."""
    return sum(TOKENS_PER_VALUE * (MAX_VALUES // 2 if a.multiple else 1) + len(a.name) for a in schema.attributes)


def cut_at_word(text: str, length: int) -> str:
    """At most `length` code points of `text`, cut before the word that would be broken, or within the only one."""
    if len(text) <= length:
        return text
    head = text[: max(length, 0)]
    if not text[length : length + 1].isspace() and (space := max(head.rfind(c) for c in " \t\n")) > 0:
        head = head[:space]
    return head.rstrip()
