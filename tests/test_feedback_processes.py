"""The store and its commands, as processes use them: at once, killed, and one after the other."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain

import pytest
from test_feedback import BRAND, ids, record
from typer.testing import CliRunner

from eval.thresholds import Threshold, as_json
from extractor import AttributeSchema, Evidence
from extractor.cli import app
from extractor.database import Database
from extractor.demonstrations import check_demonstrations
from extractor.errors import InputError
from extractor.feedback import Store, Thresholds, thresholds_of
from extractor.io import read_labelled
from extractor.quality import pace
from finetune.dataset import checked, complete


def run_python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


CLAIMING = """
import sys, time
from extractor.database import Database
from extractor.feedback import Store
store = Store(Database(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while items := store.claim(sys.argv[2], 3, sys.argv[3]):
    print(*(i.offer_id for i in items), flush=True)
    time.sleep(0.05)
"""


def test_processes_that_claim_at_once_share_nothing(store, address):
    store.add([record(f"o{i}", Brand=(("Diesel", "boot", "red")[i % 3], 0.5)) for i in range(90)])
    running = [run_python(CLAIMING, address, *how) for how in (("ann", "uncertain"), ("ben", "frequent"))]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 2
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    claimed = [process.communicate(timeout=60)[0].split() for process in running]
    assert all(claimed) and sorted(chain(*claimed)) == sorted(f"o{i}" for i in range(90))


DYING = """
import os, signal, sys
from extractor.database import Database
from extractor.feedback import Store
from extractor.schema import Attribute
store = Store(Database(sys.argv[1]))
items = store.claim("ann", 2, lease=3600)
store.decide("ann", items[0].offer_id, Attribute(name="Brand"), ["Diesel"])
with store.database.writing() as connection:
    store._review(connection, "ann", [])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reviewer_who_is_killed_keeps_what_was_decided_and_blocks_nobody(store, address, clock):
    clock.now = datetime.now(UTC)
    store.add([record(k, Brand=("Diesel", 0.5)) for k in "ab"])
    dead = run_python(DYING, address)
    dead.communicate(timeout=60)
    assert dead.returncode == -signal.SIGKILL
    assert pace(store, "ann").today == 1 and store.claim("ben") == []
    clock.pass_by(3700)
    assert ids(store.claim("ben")) == ["b"]


def shelfwise(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout + done.stderr


def test_the_commands_make_labels_that_demonstrate_and_train(address, tmp_path):
    rows = [record(f"o{i}", f"Diesel boot {i}", Brand=("Diesel", 0.5), Size=None) for i in range(3)]
    failure = {"offer_id": "x", "failure": {"reason": "invalid_offer", "message": "no title"}}
    lines = [r.model_dump_json(by_alias=True) for r in rows] + [json.dumps(failure), ""]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    place, records, out = ("--store", address), tmp_path / "records.jsonl", tmp_path / "new" / "labels.jsonl"
    assert "3 records added, 0 known already, 1 failures" in shelfwise("feedback", "add", records, *place)
    assert "0 records added, 3 known" in shelfwise("feedback", "add", records, *place)
    assert "0 labelled offers; none has all" in shelfwise("feedback", "export", *place)
    database = Database(address)
    store = Store(database)
    assert store.decide_alike("ann", "Shoes", "Brand", ["Diesel"]).n == 3 and store.undo("ann").n == 3
    store.decide("ann", "o0", BRAND, ["Diesel"])
    store.decide("ann", "o1", BRAND, [Evidence(field="title", begin=7, end=11)])
    database.close()
    assert "2 labelled offers" in shelfwise("feedback", "export", "--out", out, "--category", "Shoes", *place)
    offers = read_labelled(out)
    assert [o.attributes for o in offers] == [{"Brand": ["Diesel"]}, {"Brand": ["boot"]}]
    schemas = [AttributeSchema(category="Shoes", attributes=(BRAND,))]
    check_demonstrations(offers, schemas)
    assert checked([("", o) for o in offers], schemas) == (complete(offers, schemas), [])
    shown = shelfwise("feedback", "status", *place)
    assert "50 %" in shown and "1 values wait, 2 decided today" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "records.jsonl:2: not a record: Expecting"),
        ('{"offer_id": "1"}', "2: not a record: "),
        ("[1]", "2: not a record"),
        (record("b").model_dump_json(by_alias=True).replace("Diesel", r"\ud83d"), "offer 'b': title: half a surrogate"),
    ],
)
def test_a_line_that_is_no_record_stops_and_is_named(tmp_path, line, message):
    (tmp_path / "records.jsonl").write_text(record("a", Brand=None).model_dump_json(by_alias=True) + "\n" + line)
    done = CliRunner().invoke(app, ["feedback", "add", str(tmp_path / "records.jsonl"), "--data-dir", str(tmp_path)])
    assert done.exit_code == 2 and message in done.output.replace("\n", "")


def test_thresholds_are_those_that_the_evaluation_wrote(tmp_path):
    judged = Threshold(0.8, "own", 200, 150, 149, 0.98)
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps(as_json(judged, {"Brand": replace(judged, threshold=None)}, 0.98, 0.9, {})))
    assert thresholds_of(str(file)) == Thresholds(0.8, {"Brand": None})
    assert thresholds_of("0.7") == Thresholds(0.7)
    for wrong in ("7", "no/such.json", str(tmp_path)):
        with pytest.raises(InputError, match=wrong):
            thresholds_of(wrong)
