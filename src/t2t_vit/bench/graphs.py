"""How many graphs torch.compile made, and why more than one."""

from typing import Any

from torch._dynamo.utils import counters


class Graphs:
    """Counts from when it is made: graphs at the first run, breaks between them, and graphs made later."""

    def __init__(self) -> None:
        self._before = _graphs(), _breaks()
        self._first = 0

    def began(self) -> None:
        """The first run is over: what is compiled from now on is compiled again."""
        self._first = _graphs() - self._before[0]

    def to_dict(self) -> dict[str, Any]:
        """`graphs` is 0 where nothing is compiled; one graph without a break is what one hopes for."""
        return {
            "graphs": self._first,
            "breaks": _breaks() - self._before[1],
            "recompiled": _graphs() - self._before[0] - self._first,
        }


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def _breaks() -> int:
    return sum(counters["graph_break"].values())
