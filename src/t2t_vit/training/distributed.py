"""Several processes, one device each, started by torchrun."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from t2t_vit.training.attempt import of_this_attempt


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

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of `tensor` over the processes, in all of them."""
        return self.sum(tensor) / self.count


def from_environment() -> Processes:
    """The place that torchrun gave this process; the only process there is where torchrun did not start it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, count, local = (int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0), strict=True))
    return Processes(rank, count, local)


@contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[None]:
    """Around a run: the processes find each other (NCCL on CUDA, gloo on the CPU), and part at the end."""
    if processes.count == 1:
        yield
        return
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    backend = dist.get_default_backend_for_device(device)
    store, rank, count = next(rendezvous("env://"))
    dist.init_process_group(
        backend,
        store=of_this_attempt(store, rank, count),
        rank=rank,
        world_size=count,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
        dist.barrier()  # one that leaves while another still listens can bring that one down
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
        # New versions of torch have another name for broadcast_buffers, which the older ones do not know.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
