"""Many reviewers at once, and a service that is killed under them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count

from reviewing import put, waiting

from extractor.client import Client
from extractor.database import Database
from extractor.errors import EngineUnavailable
from extractor.feedback import Store


def test_eight_reviewers_at_once_share_nothing_and_miss_nothing(desk):
    put(desk, waiting(200))
    names = [f"r{i}" for i in range(8)]
    for name in names:
        desk.client(name)

    def review(name):
        client, mine = desk.client(name), []
        while items := client.claim(3, random.choice(["uncertain", "frequent"])):
            for item in items:
                mine.append(item.offer_id)
                assert client.decide(item.offer_id, "Brand", ["Diesel"]).decision == "accepted"
        return mine

    with ThreadPoolExecutor(len(names)) as pool:
        decided = list(pool.map(review, names))
    assert Counter(offer for mine in decided for offer in mine) == Counter(f"o{i}" for i in range(200))
    with desk.running.service.store.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT offer, count(*) FROM reviews GROUP BY offer").all()
    assert len(rows) == 200 and all(n == 1 for _, n in rows)
    counts = desk.client("r0").counts()
    assert (counts.waiting, counts.all.today, counts.mine.today) == (0, 200, len(decided[0]))


def started(address, folder):
    """A process of `shelfwise serve`, and where it listens."""
    options = [
        "--engine",
        "scripted",
        "--attributes",
        "Brand",
        "--no-auth",
        "--port",
        "0",
        "--store",
        address,
        "--rate",
        "0",
    ]
    command = [sys.executable, "-m", "extractor", "serve", *options]
    environment = os.environ | {"XDG_DATA_HOME": str(folder)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    url = ""
    for line in process.stderr:
        what = json.loads(line)["what"] if line.startswith("{") else line
        if found := re.search(r"http://\S+:\d+", what):
            url = found[0]
        if what == "the engine answers":
            return process, url
    ended(process)
    raise AssertionError("it did not start")


def ended(process, how=signal.SIGKILL):
    process.send_signal(how)
    process.communicate(timeout=20)


def test_a_service_that_is_killed_loses_nothing_it_acknowledged(address, tmp_path):
    with closing(Database(address)) as database:
        Store(database).add(waiting(400))
    process, url = started(address, tmp_path)
    acknowledged, numbers = {}, count()

    def review(_):
        with Client(url, timeout=5, patience=0) as client:
            try:
                for item in iter(lambda: client.claim(1), []):
                    (claimed,) = item
                    values = ["Diesel"] if (n := next(numbers)) % 2 else ["boot"]
                    client.decide(claimed.offer_id, "Brand", values)
                    acknowledged[claimed.offer_id] = values
                    if n == 60:
                        process.kill()
            except EngineUnavailable:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(review, range(4)))
    ended(process)
    assert 60 <= len(acknowledged) < 400
    process, url = started(address, tmp_path)
    try:
        with Client(url) as client:
            done = client.counts().all.today
            assert len(acknowledged) <= done <= len(acknowledged) + 4, "what was under way may be there, too"
            labels = {o.id: o.attributes["Brand"] for o in client.labelled()}
            assert {offer: labels[offer] for offer in acknowledged} == acknowledged
            offer, values = next(iter(acknowledged.items()))
            client.decide(offer, "Brand", values)  # whoever had no answer says it again
            assert client.counts().all.today == done
    finally:
        ended(process)
