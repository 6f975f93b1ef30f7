"""Settings from a file of unknown origin, taken only where they are flat: nesting could make a message endless."""

from typing import Any

_LONGEST_TEXT = 1000
_LONGEST_LIST = 16


def plain_config(found: Any) -> dict[str, Any] | None:
    """The entries of a configuration whose values are single values or short lists of them; None if it is none."""
    if type(found) is not dict:
        return None
    return {
        key: list(value) if type(value) is tuple else value
        for key, value in found.items()
        if type(key) is str and (_is_single(value) or _is_short_list(value))
    }


def plain_classes(found: Any) -> tuple[str, ...] | None:
    """Names of classes, or None where these are none."""
    if type(found) not in (list, tuple) or not found or not all(_is_single(name) for name in found):
        return None
    return tuple(str(name) for name in found)


def _is_single(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= _LONGEST_TEXT
    return value is None or type(value) in (bool, int, float)


def _is_short_list(value: Any) -> bool:
    return type(value) in (list, tuple) and len(value) <= _LONGEST_LIST and all(_is_single(item) for item in value)
