"""The table of attacks names tests that there are."""

import re

import pytest
from conftest import ROOT

TABLE = (ROOT / "extractor" / "service" / "ATTACKS.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| attack", "| ---"))]


def test_there_is_a_table():
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS)
def test_an_attack_has_its_tests(row):
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
    assert named
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
