"""A small share of the mutations; `python tests/weights/fuzz.py 10000` makes many more."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import outcomes


@pytest.mark.thorough
def test_mutated_files_are_opened_or_refused_in_one_sentence() -> None:
    """Under a limit of memory, in a process that may not die."""
    found = [told for told, _ in outcomes(600).values()]
    assert [told for told in found if told.startswith("WRONG")] == []
    assert {told.partition(": ")[2] for told in found} == {"opened", "refused"}
