"""Values as text for people. Escaping is not done here: the templates escape everything that they show."""

import math

LONGEST = 80  # letters of a name that are shown; the whole name is then a hint


def printable(value: object) -> str:
    """`value` as text that a browser shows as it stands.

    Control characters and marks that change the direction of text become spaces; bytes of file names that are not
    UTF-8 become U+FFFD.
    """
    plain = str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in plain)


def shortened(name: object) -> str:
    """The beginning and the end of a name that is too long for a table."""
    text = str(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 21]}…{text[-20:]}"


def number(value: float | None, digits: int = 3) -> str:
    """0.0123, 12.3, 4,567 or 1.2e-5; a dash where the value is not known."""
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
    """A share in 0..1 as per cent, with as few digits as tell it from zero."""
    size = value or 0.0
    return percent(value, 1 if 0.01 <= size < 0.1 else 2 if 0 < size < 0.01 else 0)


def duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 12 s."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{second} s"


def setting(value: object) -> str:
    """The value of a configuration key as a configuration file has it; a dash where it is empty."""
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return "–" if value == "" else str(value)
