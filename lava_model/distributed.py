"""Ranks of a torchrun launch; the only module that knows torch.distributed.

Without torchrun's environment everything here is the single-process case, and no process group exists. Every function
that takes ``ranks`` is to be called by all of them, in the same order, with tensors of the same shapes.

Axes: B rows of one rank, W ranks.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from k700_text.starting import without_handlers
from lava_model.errors import ConfigError, RankLostError

TIMEOUT_SECONDS = 600.0
"""How long a rank waits for the others before the run ends: longer than the first compilation of a model, a
checkpoint or a held-out evaluation that others wait for takes."""

# gloo's failures are bare RuntimeErrors, and DDP passes them on from inside backward().
_LOST = re.compile(
    r"gloo|nccl|(application timeout|connection (closed|reset|refused)|timed out waiting)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """This process writes logs and checkpoints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """There is no other process."""
        return self.world_size == 1


def described_ranks() -> Ranks:
    """Returns which process torchrun's environment says that this is; joins nothing.

    Raises:
        ConfigError: the environment is not that of torchrun.
    """
    if "WORLD_SIZE" not in os.environ:
        return Ranks()
    try:
        world_size = int(os.environ["WORLD_SIZE"])
        if world_size == 1:
            return Ranks()
        rank = int(os.environ["RANK"])
        if not 0 <= rank < world_size:  # WORLD_SIZE 0 too
            raise ValueError(f"RANK {rank} of WORLD_SIZE {world_size}")
        return Ranks(rank=rank, local_rank=int(os.environ.get("LOCAL_RANK", "0")), world_size=world_size)
    except (KeyError, ValueError) as error:
        raise ConfigError(_not_torchrun(error)) from error


def _check_address() -> None:
    try:
        int(os.environ["MASTER_PORT"])
        os.environ["MASTER_ADDR"]
    except (KeyError, ValueError) as error:
        raise ConfigError(_not_torchrun(error)) from error


def _not_torchrun(error: BaseException) -> str:
    return (
        f"WORLD_SIZE is set, but the rest of torchrun's environment is not as expected ({error}): start with torchrun,"
        " or unset WORLD_SIZE"
    )


@contextmanager
def ranks_from_environment(device_type: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """Joins the process group that torchrun describes, if any, and leaves it at the end.

    Args:
        device_type: ``cuda`` talks over nccl, ``cpu`` over gloo.
        timeout_seconds: how long to wait for another rank. A rank that dies is noticed at once over gloo; over nccl
            torch itself ends the waiting process then, unless torchrun did so before.

    Raises:
        ConfigError: the environment is not that of torchrun.
        RankLostError: another rank died or did not answer in time.
    """
    ranks = described_ranks()
    if ranks.is_alone:
        yield ranks
        return
    _check_address()
    if device_type == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    backend = "nccl" if device_type == "cuda" else "gloo"
    try:
        # Waiting for ranks that may never come, it would answer no signal.
        with without_handlers():
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        yield ranks
    except BaseException as error:
        # nccl takes leave of all ranks together: alone it would wait for those who are still at work.
        if backend == "gloo" and dist.is_initialized():
            _take_leave(backend)
        if isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise RankLostError(
                f"rank {ranks.rank} of {ranks.world_size} lost another process of the run, which ended or did not"
                f" answer for {timeout_seconds:g} s: look at what the others printed, then run the same command again"
            ) from error
        raise
    _take_leave(backend)


def _take_leave(backend: str) -> None:
    if backend == "gloo":
        # Seen once in many runs: what the model's replica holds of the group is let go of under Python's lock, and the
        # group then waits for a thread of its own that wants this lock to let go of a tensor. So nobody lets go of it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
    dist.destroy_process_group()


def replicate(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Returns the model with gradients averaged over the ranks; itself when there is one rank."""
    if ranks.is_alone:
        return model
    # Buffers are the frozen trunk's: the same everywhere and never written.
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def no_sync(replica: nn.Module) -> AbstractContextManager[None]:
    """Returns a context in which backward of what ``replicate`` gave keeps gradients on their rank, to be summed up.

    The first backward after it averages all of them.
    """
    if isinstance(replica, nn.parallel.DistributedDataParallel):
        context: AbstractContextManager[None] = replica.no_sync()
        return context
    return nullcontext()


def gather(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Returns the rows of all ranks, (B, ...) to (W * B, ...), in the order of ranks; differentiable.

    The gradient that a rank gets is the sum over ranks: where all of them form the same scalar from the result, that
    is W times the scalar's. The mean that DDP takes of the parameters' gradients makes it exact.
    """
    if ranks.is_alone:
        return tensor
    gathered: Tensor = _Gather.apply(tensor, ranks.world_size)  # type: ignore[no-untyped-call]  # torch leaves it so
    return gathered


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replaces the gradients of parameters that DDP does not see by their mean over ranks; a missing one is zero."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if ranks.is_alone or not trained:
        return
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= ranks.world_size


def from_main(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Returns the tensor with the values that it has on the main rank, written in place."""
    if not ranks.is_alone:
        dist.broadcast(tensor, src=0)
    return tensor


def any_rank(claim: bool, ranks: Ranks, device: torch.device) -> bool:
    """Returns True on every rank if the claim holds on one of them."""
    if ranks.is_alone:
        return claim
    claims: Tensor = torch.tensor(float(claim), device=device)
    dist.all_reduce(claims, op=dist.ReduceOp.MAX)
    return bool(claims.item())


def wait_for_all(ranks: Ranks) -> None:
    """Returns when every rank has come here."""
    if not ranks.is_alone:
        dist.barrier()


class _Gather(torch.autograd.Function):
    """One collective in each direction; gloo and nccl both know these two."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world_size: int) -> Tensor:
        ctx.num_rows = len(tensor)
        gathered = tensor.new_empty((world_size * len(tensor), *tensor.shape[1:]))
        dist.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = gradient.new_empty((ctx.num_rows, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own, None
