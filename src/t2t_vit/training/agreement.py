"""How several processes agree to stop after the same step."""

import torch
import torch.distributed as dist


class Agreement:
    """A number that all processes know: the largest of theirs, found out on the host beside the work.

    Each `turn` reads the round that the turn before began, and begins the next: a message of four bytes over gloo, for
    which no device and, as a rule, nobody waits. Make it in all processes at once.
    """

    def __init__(self) -> None:
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # a number would mean that this process is not in it
        self._group = group
        self._number = torch.zeros(1, dtype=torch.int32)
        self._round: dist.Work | None = None

    def turn(self, number: int) -> int:
        """The largest number that any process brought to its last turn; this one's `number` is for the next."""
        found = self._read()
        self._number = torch.tensor([number], dtype=torch.int32)
        self._round = dist.all_reduce(self._number, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return found

    def largest(self, number: int) -> int:
        """The largest `number` of all processes; waits for them."""
        numbers = torch.tensor([number], dtype=torch.int64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._group)
        return int(numbers)

    def finish(self) -> None:
        """Wait for the round that is under way."""
        self._read()

    def meet(self) -> None:
        """Wait until all processes are here; those that have gone are not waited for."""
        try:
            self._read()
            dist.barrier(self._group)
        except RuntimeError:
            pass

    def _read(self) -> int:
        if self._round is None:
            return 0
        self._round.wait()
        self._round = None
        return int(self._number)
