"""A small share of the mutations; `python tests/weights/fuzz.py 10000` makes many more."""

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import outcomes


def test_mutated_files_are_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    found = list(outcomes(20, 0, tmp_path))  # the first of each kind loads its libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = list(outcomes(1500, 1, tmp_path))
    assert set(found) >= {"refused", "read as torch", "read as mindspore"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
