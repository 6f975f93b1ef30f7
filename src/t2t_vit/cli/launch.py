"""`python -m t2t_vit.cli.launch LINE`: torchrun with torchrun's own line, and the exit code of what it starts.

By itself torchrun knows nothing of SIGUSR1, and ends with code 1 and a traceback for whatever its processes end with.
"""

import logging
import sys
from collections.abc import Collection, Sequence

from t2t_vit.platforms import STOPPING, signal_name
from t2t_vit.training.signals import Stopped, heard, stop_at_once

IN_PART = 3  # exit code of one of several processes where a single one ends with 1, which also follows a traceback
SAID = {2, *(128 + number for number in STOPPING)}  # the processes have reported these themselves


def main(words: Sequence[str] | None = None) -> int:
    """Start the processes, forward signals to them, and return the exit code that they agree in."""
    try:
        with heard(stop_at_once):
            return _run(list(sys.argv[1:] if words is None else words))
    except Stopped as stopped:
        return int(stopped.code or 0)


def _run(words: list[str]) -> int:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.ERROR)  # it would log every end as a failure, at length
    names = ",".join(number.name for number in STOPPING)
    try:
        run(parse_args(["--signals-to-handle", names, *words]))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        return _explained({rank: failure.exitcode for rank, failure in failed.failures.items()})
    except SignalException as signalled:
        return 128 + signalled.sigval
    return 0


def _explained(codes: dict[int, int]) -> int:
    """The exit code that stands for those of the processes that failed first."""
    code = exit_code(codes.values())
    if code == IN_PART:
        return 1
    if code not in SAID:
        rank = next(rank for rank, own in codes.items() if exit_code([own]) == code)
        own = codes[rank]
        how = f"was killed by {signal_name(-own)}" if own < 0 else f"ended with exit code {own}"
        stopped = "so the other processes were stopped; --resume auto continues the run"
        print(f"t2t-vit: process {rank} {how}, {stopped}", file=sys.stderr)
    return code


def exit_code(codes: Collection[int]) -> int:
    """A mistake of the user's goes before what it entailed; else the first one. A signal n is 128 + n, as in shells."""
    shells = [128 - code if code < 0 else code for code in codes]
    return 2 if 2 in shells else shells[0]


if __name__ == "__main__":
    sys.exit(main())
