"""Adapters that are trained on what people decided, compared, and promoted."""

from typing import Annotated, Any

from fastapi import Depends
from pydantic import ConfigDict, Field

from extractor import quality
from extractor.errors import ConflictError
from extractor.journal import JobEntry
from extractor.service.api.common import BODY, Asking, Served, problems, router
from extractor.service.models import Body, Name
from extractor.service.problems import Problem
from extractor.service.reports import FINISHED, RUNNING, STATES
from extractor.service.served import Service
from extractor.service.training import COMPARING, TRAINING, TooFew

reviewing = router("review", prefix="/v1/adapters")
deciding = router("admin", prefix="/v1/adapters")


class TrainingRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"category": "Shoes"}]})

    category: str = Field(max_length=200, description='As `quality` names it; "" for none.')


class PromotionRequest(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"reference": "shoes@2"},
                {"reference": "shoes@2", "force": True, "reason": "the new season is not among the held-out offers"},
            ]
        }
    )

    reference: Name = Field(description="name@version, of an adapter that was trained here.")
    force: bool = Field(default=False, description="Also where it is not better; takes a reason, which is kept.")
    reason: str | None = Field(default=None, min_length=1, max_length=500)


class RollbackRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"category": "Shoes"}]})

    category: str = Field(max_length=200, description='As `serving` names it; "" for a schema without a category.')


class Rival(Body):
    """F1 in per cent; `difference` is that of the adapter, with its 95 % interval and the p-value of the paired test."""

    name: str = Field(examples=["zero-shot"])
    f1: float
    difference: float
    low: float
    high: float
    p: float


class Scores(Body):
    offers: int = Field(description="Held out, and asked of all.")
    f1: float
    rivals: list[Rival]


class TrainingView(Body):
    """`state` is waiting, running, cancelled, failed (`problem` says what to do) or finished: then there are `scores`."""

    id: str
    category: str | None
    state: str = Field(json_schema_extra={"enum": list(STATES)})
    phase: str | None = Field(json_schema_extra={"enum": [TRAINING, COMPARING, None]})
    fraction: float | None = Field(description="Of the steps of the training.")
    step: int | None
    steps: int | None
    who: str
    created: str
    finished: str | None
    learned: int = Field(description="Offers to learn from.")
    held_out: int
    reference: str | None = Field(description="Of the adapter, once it is trained.", examples=["shoes@2"])
    scores: Scores | None
    unbeaten: list[str] | None = Field(description="What it is not better than, beyond chance. Empty: it has won.")
    serves: bool
    problem: str | None


class Serving(Body):
    category: str
    reference: str


class TrainingList(Body):
    possible: bool = Field(description="Whether the service has a folder of adapters.")
    enough: int = Field(description="Labelled offers that a category needs.")
    serving: list[Serving]
    jobs: list[TrainingView]


@deciding.post("/train", status_code=202, responses=BODY | problems(409))
def train(body: TrainingRequest, service: Served, key: Asking) -> TrainingView:
    """Begin to train an adapter on what people decided in a category. It is compared on offers that are held out, and serves
    nobody until it is promoted."""
    if service.training.registry is None:
        detail = "there is no folder of adapters; start the service with --adapters FOLDER"
        raise Problem(409, "no-registry", "No adapters are served", detail)
    if (schema := service.asked(body.category)) is None:
        raise Problem(422, "unknown-schema", "No such schema", f"no schema for {body.category!r}")
    categories = [c for c in quality.learnable(service.store) if service.asked(c) == schema]
    try:
        return _view(service, service.training.submit(key.name, schema, categories))
    except TooFew as few:
        raise Problem(409, "enough", "Not enough labelled offers", str(few)) from few
    except ConflictError as error:
        raise Problem(409, "under-way", "It is being trained", str(error)) from error


@reviewing.get("/jobs")
def trainings(service: Served) -> TrainingList:
    """Newest first, what came of each, and which adapters serve now."""
    return TrainingList(
        possible=service.training.registry is not None,
        enough=quality.ENOUGH,
        serving=[Serving(category=c, reference=r) for c, r in service.promotions.serving().items()],
        jobs=[_view(service, entry) for entry in service.training.jobs()],
    )


def _entry(job: str, service: Served) -> JobEntry:
    if (entry := service.training.job(job)) is None:
        raise Problem(
            404, "unknown-job", "No such job", "no adapter was trained by it; GET /v1/adapters/jobs lists them"
        )
    return entry


One = Annotated[JobEntry, Depends(_entry)]


@deciding.post("/jobs/{job}/cancel", responses=problems(404, 409, 422))
def cancel(entry: One, service: Served, key: Asking) -> TrainingView:
    """Stop a training that waits or runs. It can go on from its last checkpoint."""
    if not service.training.cancel(key.name, entry.id):
        raise Problem(409, "state", "The job is over", "only a job that waits or runs can be cancelled")
    return _view(service, service.training.job(entry.id) or entry)


@deciding.post("/jobs/{job}/resume", responses=problems(404, 409, 422))
def resume(entry: One, service: Served, key: Asking) -> TrainingView:
    """Go on with a training that was cancelled or has failed."""
    if not service.training.resume(key.name, entry):
        raise Problem(409, "state", "The job has not stopped", "only a job that was cancelled or has failed can go on")
    return _view(service, service.training.job(entry.id) or entry)


@deciding.post("/promote", responses=BODY | problems(404, 409))
def promote(body: PromotionRequest, service: Served, key: Asking) -> TrainingView:
    """Let an adapter serve its category from now on, if it is better than all that it was compared with. The engine is started
    again with it, and the answer comes once it has extracted an offer; where it cannot, all is as it was."""
    if body.force and body.reason is None:
        raise Problem(422, "no-reason", "No reason", "to promote it all the same, say why in `reason`; it is kept")
    found = [e for e in service.training.jobs() if e.counts.get("reference") == body.reference]
    entry = next((e for e in found if e.state == FINISHED), None)
    if entry is None:
        detail = f"no adapter {body.reference!r} was trained and compared here; GET /v1/adapters/jobs lists them"
        raise Problem(404, "unknown-adapter", "No such adapter", detail)
    if body.reference in service.promotions.serving().values():
        raise Problem(409, "serves", "It serves already", f"{body.reference} serves {entry.asked['category']}")
    scores = entry.counts["scores"]
    unbeaten = service.promotions.unbeaten(body.reference, entry.asked["key"], scores)
    if unbeaten and not body.force:
        detail = (
            f"on {scores['offers']} held-out offers {body.reference} is not better than {', '.join(unbeaten)} beyond chance;"
            " label more and train anew, or promote it all the same, with `force` and a `reason`"
        )
        raise Problem(409, "not-better", "It is not better", detail)
    service.promotions.promote(key.name, body.reference, scores, body.reason if unbeaten else None)
    return _view(service, entry)


@deciding.post("/rollback", responses=BODY | problems(409))
def rollback(body: RollbackRequest, service: Served, key: Asking) -> list[Serving]:
    """Take back the last promotion of a category: what served before, or prompting, serves again. Answers with what serves."""
    service.promotions.rollback(key.name, body.category)
    return [Serving(category=c, reference=r) for c, r in service.promotions.serving().items()]


def _view(service: Service, entry: JobEntry) -> TrainingView:
    counts: dict[str, Any] = entry.counts
    scores, reference = counts.get("scores"), counts.get("reference")
    shown = scores and Scores(offers=scores["offers"], f1=scores["f1"], rivals=[Rival(**r) for r in scores["rivals"]])
    return TrainingView(
        id=entry.id,
        category=entry.asked["category"],
        state=entry.state,
        phase=counts.get("phase") if entry.state == RUNNING else None,
        fraction=counts["step"] / counts["steps"] if counts.get("steps") else None,
        step=counts.get("step"),
        steps=counts.get("steps"),
        who=entry.who,
        created=entry.created,
        finished=entry.finished,
        learned=entry.asked["learned"],
        held_out=entry.asked["held_out"],
        reference=reference,
        scores=shown,
        unbeaten=service.promotions.unbeaten(reference, entry.asked["key"], scores) if scores and reference else None,
        serves=reference in service.promotions.serving().values(),
        problem=entry.problem,
    )
