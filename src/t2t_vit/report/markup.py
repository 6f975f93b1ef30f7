"""Text for a page: whatever a class or a file is called, it stays text."""

import math
from collections.abc import Iterable
from html import escape


def text(value: object) -> str:
    """`value` as harmless HTML text, also within quotes; bytes of file names that are no text become U+FFFD."""
    plain = str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return escape("".join(letter if letter.isprintable() else " " for letter in plain))


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: 0.0123, 12.3, 4,567, 1.2e-05; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        trimmed = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{trimmed}e{int(exponent)}"
    return f"{value:.{digits}g}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share in 0..1 as per cent; a dash where it is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def share(value: float | None) -> str:
    """A share in 0..1 as per cent, with as few digits as tell it apart from nothing."""
    size = value or 0.0
    return percent(value, 1 if 0.01 <= size < 0.1 else 2 if 0 < size < 0.01 else 0)


def duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 12 s."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{second} s"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>'


def section(title: str, body: str, note: str = "") -> str:
    """A part of the page: heading, a quiet sentence, content, all HTML already."""
    quiet = f'<p class="note">{note}</p>\n' if note else ""
    return f"<section><h2>{title}</h2>\n{quiet}{body}</section>\n"
