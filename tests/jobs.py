"""What the tests of jobs share: jobs over offers, extractors that break, and what must be true of a job at its end."""

import json
from contextlib import contextmanager
from pathlib import Path

from extractor import AttributeSchema, Extractor
from extractor.batch import prints
from extractor.config import load_settings
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.job import create
from extractor.manifest import Manifest

SCHEMA = AttributeSchema.from_names(["Brand", "Color"], "Shoes")
COLUMNS = {"id": "id", "title": "title", "description": "description", "category": "category"}


def offers(n: int, first: int = 0) -> list[str]:
    return [
        json.dumps({"id": str(i), "category": "Shoes", "title": f"Brand{i} Loafer"}) for i in range(first, first + n)
    ]


def made(tmp_path: Path, lines: list[str], name: str = "job", part: int = 8):
    """A job over these lines, not begun."""
    source = tmp_path / "offers.jsonl"
    source.write_text("".join(line + "\n" for line in lines))
    settings = load_settings(engine="scripted", chunk=part)
    manifest = Manifest(
        sources=[str(source)],
        columns=COLUMNS,
        schema_path=None,
        attributes="Brand,Color",
        demonstrations=None,
        settings={"engine": "scripted"},
        part=part,
        prints=prints([str(source)], settings, [SCHEMA], []),
        created="",
    )
    return create(tmp_path / name, manifest)


def opener(script=first_words, engines=None):
    """What opens an extractor; `engines` collects those that were started."""

    @contextmanager
    def opened():
        engine = ScriptedEngine(script)
        if engines is not None:
            engines.append(engine)
        yield Extractor(engine, [SCHEMA])

    return opened


def poisonous(request):
    """Breaks on an offer that says so, and on any batch with it."""
    if "POISON" in request.messages[-1]["content"]:
        raise RuntimeError("a number that is none")
    return first_words(request)


def once(job, n: int) -> tuple[list[str], list[str]]:
    """Ids of the records and of the dead letters, after checking that they are n in all and that each is there once."""
    records, dead = [r.offer_id for r in job.records()], [letter.failure.offer_id for letter in job.letters()]
    counts = job.counts()
    assert (counts.rows, counts.records, counts.dead) == (n, len(records), len(dead))
    assert len({*records, *dead}) == len(records) + len(dead) == n
    return records, dead


def troubled() -> list[str]:
    """160 offers: 7 and 90 are poisonous, 40 is damaged, and 100 is 3 with another id."""
    lines = [line.replace("Loafer", "POISON") if i in (7, 90) else line for i, line in enumerate(offers(160))]
    lines[40] = lines[40][:-9]
    lines[100] = lines[3].replace('"3"', '"100"')
    return lines


def bare(job) -> list[str]:
    """The records without what differs from run to run."""
    return [r.model_copy(update={"provenance": None}).model_dump_json() for r in job.records()]
