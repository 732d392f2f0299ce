"""What the tests of training share: a service that can train, with a script in the place of the commands."""

import json
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from serving import OFFER, serving
from test_feedback import record

from extractor.adapters import Registry
from extractor.database import Database
from extractor.definitions import Definitions
from extractor.engines.scripted import ScriptedEngine
from extractor.feedback import Store
from extractor.quality import ENOUGH
from extractor.service import commands

STANDIN = (sys.executable, str(Path(__file__).parent / "standin.py"))
WON = {"scores": {"unbeaten": []}}


def word(n):
    """Titles that differ in more than digits."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(n))


def decided(store, n, first=0, category="Shoes"):
    """So many labelled offers."""
    store.add(
        record(f"o{i}", f"Diesel boot {word(i)} {i}", category=category, Brand=("Diesel", 0.5), Color=None)
        for i in range(first, first + n)
    )
    store.decide_alike("ann", category, "Brand", ["Diesel"])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Bench:
    """A service that can train, what its commands do, and what they were called with."""

    def __init__(self, running, root):
        self.running, self.root, self.http = running, root, running.http

    def stand(self, **said):
        (self.root / "standing").write_text(json.dumps(said))

    def calls(self):
        file = self.root / "calls"
        return rows(file) if file.exists() else []

    def train(self, category="Shoes"):
        return self.http.post("/v1/adapters/train", json={"category": category})

    def job(self, n=0):
        return self.http.get("/v1/adapters/jobs").json()["jobs"][n]

    def ended(self, state="finished"):
        self.running.until(lambda: self.job()["state"] not in ("waiting", "running"))
        assert self.job()["state"] == state, self.job()
        return self.job()

    def trained(self, **said):
        self.stand(**said)
        assert self.train().status_code == 202
        return self.ended()

    def promote(self, **asked):
        return self.http.post("/v1/adapters/promote", json={"reference": "shoes@1"} | asked)

    def adapter(self):
        found = self.running.extract(OFFER).json()["results"][0]
        return found["provenance"]["adapter"]


@contextmanager
def bench_at(folder, engine=None, n=ENOUGH, saved=None, **more):
    """`saved` is the text of a template in the store, own@1, by which the service asks."""
    root = folder / "adapters"
    root.mkdir(exist_ok=True)
    with closing(Database(folder / "store.sqlite")) as database, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "TICK", 0.02)
        store = Store(database)
        if n:
            decided(store, n)
        engine = engine or ScriptedEngine()
        if saved:
            Definitions(database).save("template", "own", saved, 0, "ann")
            more["template"] = "own@1"
        more |= {"folder": folder, "program": STANDIN}
        with serving(engine, store=store, registry=Registry(root), **more) as running:
            bench = Bench(running, root)
            if not (root / "standing").exists():
                bench.stand()
            yield bench


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1]
    except FileNotFoundError:
        return False
