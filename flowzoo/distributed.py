"""Several processes that train one flow, as ``torchrun`` starts them: each has a slice of every batch.

Outside ``joined`` every process is alone, whatever the environment says, and the functions here return what they were
given: a training in one process does not know that this module exists.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist  # torch imports it in any case

from flowzoo import preempt

# Seconds for which the first process may say first what is wrong with all of them; torchrun asks the others to end as
# soon as it is gone.
HEAD_START = 20.0


class DistributedError(ValueError):
    """Processes that cannot train one flow together."""


class World(NamedTuple):
    """Which of how many processes this one is, and which of those on its machine."""

    rank: int
    size: int
    local_rank: int


ALONE = World(0, 1, 0)
_joined = ALONE


def world() -> World:
    """The processes that train together: those that ``joined`` joined, or this one alone."""
    return _joined


@contextmanager
def joined() -> Iterator[World]:
    """Inside the block this process trains with the others that ``torchrun`` started; without it, alone.

    Tensors of a GPU are exchanged by NCCL, those of the CPU by Gloo. Where all processes fail in the same way, the
    first says so and the others are silent.

    Raises:
        DistributedError: if the processes cannot be joined.
    """
    global _joined
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2 or "RANK" not in os.environ:
        yield ALONE
        return
    if not dist.is_available():
        raise DistributedError("this torch was built without torch.distributed; start one process, without torchrun")
    rank = int(os.environ["RANK"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    cuda = torch.cuda.is_available()
    if cuda and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)  # so that `cuda` without a number is this process's own
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda and dist.is_nccl_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise DistributedError(f"cannot join the other processes ({str(error).splitlines()[0]})") from error
    _joined = World(rank, size, local_rank)
    try:
        yield _joined
    except Exception:
        if rank:
            _let_the_first_speak()
        raise  # and leave the group as it is: to close it would wait for processes that may have died
    else:
        dist.destroy_process_group()
    finally:
        _joined = ALONE


def _let_the_first_speak() -> None:
    """Wait to be asked to end; who is has nothing more to say.

    Raises:
        Preempted: if this process is.
    """
    end = time.monotonic() + HEAD_START
    while time.monotonic() < end:
        if preempt.asked():
            raise preempt.Preempted
        time.sleep(0.05)


def broadcast_from_zero(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process, which has as many of the same shapes."""
    if _joined.size == 1:
        return
    with torch.no_grad():
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            if whole is not tensor:
                tensor.copy_(whole)


def number_from_zero(value: float) -> float:
    """A number as the first process has it."""
    held = torch.tensor(value, dtype=torch.float64)
    broadcast_from_zero([held])
    return float(held)


def total(value: float) -> float:
    """The sum of a number over the processes."""
    if _joined.size == 1:
        return value
    held = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(held)
    return float(held)


def take_mean(tensor: Tensor) -> None:
    """Overwrite a tensor with its mean over the processes."""
    if _joined.size > 1:
        dist.all_reduce(tensor)
        tensor /= _joined.size


def take_least(tensor: Tensor) -> None:
    """Overwrite a tensor with its smallest value over the processes."""
    if _joined.size > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MIN)


def share_of(count: int) -> slice:
    """This process's rows of so many, as even as can be: one after another in contiguous parts."""
    rank, size, _ = _joined
    return slice(count * rank // size, count * (rank + 1) // size)


def agree(text: str, what: str) -> None:
    """Check that this process has the same as the first.

    Args:
        text: what should be equal everywhere.
        what: it is, and what to do about it, for the message.

    Raises:
        DistributedError: in the processes that have something else.
    """
    if _joined.size == 1:
        return
    own = torch.tensor(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
    first = own.clone()
    broadcast_from_zero([first])
    if not torch.equal(own, first):
        raise DistributedError(f"process {_joined.rank} of {_joined.size} does not have {what}")
