"""Ranks of a torchrun launch; the only module that knows torch.distributed.

Without torchrun's environment everything here is the single-process case, and no process group exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


@contextmanager
def ranks_from_environment(device_type: str) -> Iterator[Ranks]:
    """Joins the process group that torchrun describes, if any, and leaves it at the end.

    Args:
        device_type: ``cuda`` talks over nccl, ``cpu`` over gloo.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    ranks = Ranks(
        rank=int(os.environ["RANK"]),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    if device_type == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def replicate(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Returns the model with gradients averaged over the ranks; itself when there is one rank."""
    if ranks.world_size == 1:
        return model
    # Buffers are the frozen trunk's: the same everywhere and never written.
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def any_rank(claim: bool, ranks: Ranks, device: torch.device) -> bool:
    """Returns True on every rank if the claim holds on one of them."""
    if ranks.world_size == 1:
        return claim
    claims: Tensor = torch.tensor(float(claim), device=device)
    dist.all_reduce(claims, op=dist.ReduceOp.MAX)
    return bool(claims.item())


def wait_for_all(ranks: Ranks) -> None:
    """Returns when every rank has come here."""
    if ranks.world_size > 1:
        dist.barrier()
