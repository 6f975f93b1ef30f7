"""Several processes, one device each, started by torchrun: how they find each other, stop together and end."""

import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from t2t_vit.errors import UserError
from t2t_vit.platforms import die_with_parent, executable_of, kill_at_once

Found = TypeVar("Found")
_SECONDS_TO_EXPLAIN = 2.0


@dataclass(frozen=True)
class Processes:
    """This process among those that share a run: number `rank` of `count`, number `local` on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over the processes, in all of them."""
        if self.count == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def of_first(self, tensor: Tensor) -> Tensor:
        """The first process's `tensor`, in all of them; it has one shape and type everywhere."""
        if self.count == 1:
            return tensor
        copy = tensor.clone()
        dist.broadcast(copy, 0)
        return copy

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of `tensor` over the processes, in all of them."""
        return self.sum(tensor) / self.count


def from_environment() -> Processes:
    """The place that torchrun gave this process; the only process there is where torchrun did not start it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, count, local = (int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0), strict=True))
    return Processes(rank, count, local)


class Meeting:
    """Several processes that can talk before each knows its device: what the first one finds out, all know.

    Args:
        store: that `of_this_attempt` made; None where there is one process.
    """

    def __init__(self, processes: Processes, store: Store | None = None) -> None:
        self.processes, self.store = processes, store
        self._asked = 0

    def of_first(self, find: Callable[[], Found]) -> Found:
        """What `find` returns in the first process, in all of them; call it in all of them.

        Raises:
            UserError: the first process's, in all of them.
        """
        if self.store is None:
            return find()
        self._asked += 1
        key = f"found/{self._asked}"
        if not self.processes.is_first:
            found, mistake = pickle.loads(bytes.fromhex(self.store.get(key).decode()))
            if mistake is not None:
                raise UserError(mistake)
            return found
        try:
            found = find()
        except UserError as error:
            self.store.set(key, pickle.dumps((None, str(error))).hex())
            raise
        self.store.set(key, pickle.dumps((found, None)).hex())
        return found

    def tell_mistake(self, error: UserError) -> None:
        """Let the others know why this process ends."""
        if self.store is not None:
            with suppress(RuntimeError):  # the store has ended, and with it the other processes
                self.store.set("mistake", str(error))

    def mistake_of_another(self) -> str | None:
        """Why another process ended, where that explains an error of this one's; waits a moment for it."""
        end = time.monotonic() + _SECONDS_TO_EXPLAIN
        with suppress(RuntimeError):
            while self.store is not None and time.monotonic() < end:
                if self.store.check(["mistake"]):
                    return self.store.get("mistake").decode()
                time.sleep(_PAUSE)
        return None


def meet(processes: Processes) -> Meeting:
    """The processes find each other."""
    if processes.count == 1:
        return Meeting(processes)
    store, rank, count = next(rendezvous("env://"))
    return Meeting(processes, of_this_attempt(store, rank, count))


@contextmanager
def connected(processes: Processes, device: torch.device, meeting: Meeting | None = None) -> Iterator[None]:
    """Around a run: the processes make a group (NCCL on CUDA, gloo on the CPU), and part at the end.

    A mistake of the user's that ends one of them ends the others with the same sentence.
    """
    if processes.count == 1:
        yield
        return
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    backend = dist.get_default_backend_for_device(device)
    meeting = meeting or meet(processes)
    dist.init_process_group(
        backend,
        store=meeting.store,
        rank=processes.rank,
        world_size=processes.count,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
        dist.barrier()  # a process that leaves early can crash one that still waits
    except UserError as error:
        meeting.tell_mistake(error)
        raise
    except Exception as error:
        told = meeting.mistake_of_another()
        if told is None:
            raise
        raise UserError(told) from error
    finally:
        dist.destroy_process_group()


def leave(code: int) -> None:
    """End one of several processes at once, when its work is done and its files are closed.

    While Python takes itself apart, threads of torch's process group now and then bring it down ("terminate called
    without an active exception", 3 of 30 runs on a busy machine, torch 2.11 and 2.15), and torchrun reports a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def share_gradients(model: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """`model` as the training step calls it: its gradients are averaged over the processes.

    All processes begin with the weights of the first. Take state dicts from `model` itself, never from this.
    """
    if processes.count == 1:
        return model
    ids = None if device.type == "cpu" else [device.index]
    with warnings.catch_warnings():
        # New versions of torch have another name for broadcast_buffers, unknown to older ones.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


PATIENCE = timedelta(minutes=10)
_PAUSE = 0.05  # seconds


def of_this_attempt(store: Store, rank: int, count: int, patience: timedelta = PATIENCE) -> Store:
    """A part of `store` that only the processes that are alive use; call it in all `count` of them.

    torchrun keeps its store when it starts processes again, addresses of dead ones included, and several of them on
    several machines count their attempts each for itself. So the first process answers whoever greets it, with a name
    that is new each time, until all the others have heard it.

    Raises:
        TimeoutError, or torch's DistStoreError: not all of them came within `patience`.
    """
    own = uuid4().hex
    store.set_timeout(patience)
    if rank > 0:
        store.set(f"hello/{rank}", own)
        attempt = store.get(f"answer/{own}").decode()
        store.set(f"heard/{attempt}/{rank}", "")
        return PrefixStore(attempt, store)
    missing = set(range(1, count))
    end = time.monotonic() + patience.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"heard/{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"hello/{other}"]):  # perhaps from a dead process, which will not read the answer
                store.set(f"answer/{store.get(f'hello/{other}').decode()}", own)
        if time.monotonic() > end:
            raise TimeoutError(f"of {count} processes, {len(missing)} did not join, for example number {min(missing)}")
        time.sleep(_PAUSE if missing else 0)
    return PrefixStore(own, store)


class StopAgreement:
    """A number that all processes know: the largest of theirs, found on the host while the device works.

    Each `turn` reads the round that the turn before began, and begins the next: a message of four bytes over gloo, for
    which no device and, as a rule, nobody waits. Make it in all processes at once.
    """

    def __init__(self) -> None:
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # a number would mean that this process is not a member
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


def end_with_launcher() -> None:
    """On Linux: have this process killed at the moment that its launcher dies.

    torchrun starts each process in a session of its own, so a SIGKILL of torchrun, or of its process group, does not
    reach them: they would train on, and write into the folders of the run that is continued in the meantime.
    """
    launcher = os.getppid()
    if not die_with_parent():
        return
    if os.getppid() != launcher or not _may_have_launched(launcher):  # it died a moment ago
        sys.stderr.write("the launcher of this process has ended, so this process ends\n")
        kill_at_once(os.getpid())


def _may_have_launched(parent: int) -> bool:
    """Whether torchrun can be this process, and not the one that takes in orphans: init, systemd, a container's first.

    While a process of torchrun's starts, for seconds, its launcher may die unnoticed; it would then wait for the others
    for half an hour. torchrun, and what starts processes by its library, is a Python of the same user.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    return "python" in (executable_of(parent) or "")
