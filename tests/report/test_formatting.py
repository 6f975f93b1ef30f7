"""Numbers and names as people read them."""

import math

import pytest

from t2t_vit.report.formatting import LONGEST, duration, number, percent, printable, setting, share, shortened


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (3, "3"), (1234567.0, "1,234,567"), (4567.8, "4,568"), (99.96, "100"), (12.34, "12.3"),
        (0.01234, "0.0123"), (-2.5, "-2.5"), (0.00025, "2.5e-4"), (1e-5, "1e-5"), (2e9, "2,000,000,000"),
        (None, "–"), (math.nan, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares() -> None:
    assert [percent(0.12345), percent(0.12345, 1), percent(1.0, 0), percent(None), percent(math.nan)] == [
        "12.35 %", "12.3 %", "100 %", "–", "–"
    ]  # fmt: skip
    assert [share(value) for value in (0.0, 0.004, 0.01, 0.0999, 0.1, 0.25, 1.0, None)] == [
        "0 %", "0.40 %", "1.0 %", "10.0 %", "10 %", "25 %", "100 %", "–"
    ]  # fmt: skip


def test_durations() -> None:
    times = (0.4, 59.6, 60, 200, 3599.4, 7500, 360_000)
    assert [duration(time) for time in times] == [
        "0 s", "1 min 0 s", "1 min 0 s", "3 min 20 s", "59 min 59 s", "2 h 5 min", "100 h 0 min"
    ]  # fmt: skip


def test_settings() -> None:
    assert [setting(value) for value in ("", 0, False, "a b", [0.5, 0.25], [])] == [
        "–",
        "0",
        "False",
        "a b",
        "0.5 0.25",
        "",
    ]


def test_names_are_text_that_can_be_shown() -> None:
    assert printable("Ankle boot, 外套, צבע") == "Ankle boot, 外套, צבע"
    assert printable("a\nb\x07c\u200fd\u202ee") == "a b c d e"
    assert printable("a\udcffb").encode() == "a���b".encode()
    assert printable(b"x".decode() + "<&>") == "x<&>"  # escaping is the templates' part


def test_long_names_keep_both_ends() -> None:
    whole = "a" * LONGEST
    assert shortened(whole) == whole
    short = shortened("first" + "b" * 1000 + "last")
    assert len(short) == LONGEST
    assert short.startswith("firstb") and short.endswith("blast") and "…" in short
