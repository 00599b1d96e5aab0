"""What test_distributed.py runs on each rank: losses and gradients of many objectives through a model under DDP."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from k700_text.data.sample import Batch
from lava_model.config import LossConfig, LossForm, LossWeights, Negatives
from lava_model.distributed import (
    Ranks,
    any_rank,
    average_gradients,
    from_main,
    gather,
    no_sync,
    ranks_from_environment,
    replicate,
)
from lava_model.errors import RankLostError
from lava_model.loss import LossOutput, lava_loss, nce
from lava_model.model import Embeddings
from lava_model.objective import Objective

NAMES = tuple(field.name for field in fields(Embeddings))
PER_RANK, INPUT, EMBEDDING = 6, 4, 3

# Rows of three ranks: a mixed one, one with nothing to contrast, one with a single complete row.
_VIDEO = [*(1, 1, 1, 1, 1, 0), *(1, 1, 1, 0, 0, 0), *(0, 0, 1, 0, 0, 0)]
_AUDIO = [*(1, 0, 1, 1, 1, 1), *(0, 0, 0, 0, 1, 0), *(0, 1, 1, 0, 0, 0)]
_TEXT = [*(1, 1, 1, 0, 1, 1), *(0, 0, 0, 0, 0, 1), *(0, 0, 1, 0, 0, 0)]
# The same for two: both mixed.
_EVEN = [*(1, 1, 0, 1, 1, 1), *(1, 1, 1, 1, 0, 1)]
# Equal letters are equal titles or videos, within a rank and across ranks.
_TITLES, _VIDEOS = "aabacdeabfggahhhiz", "abcddefahijhaklmdn"


def configs(world_size: int) -> Iterator[LossConfig]:
    """Every form, policy, centroid and pool, with masks; of three ranks fewer, without masks."""
    is_masked = world_size == 2
    for form, policy, centroid, negatives in itertools.product(
        ("symmetric", "pooled", "infonce", "mil_nce"),
        ("complete_pair", "available_mean"),
        ("leave_one_out", "literal", "stop_grad", "kmeans") if is_masked else ("leave_one_out", "kmeans"),
        ("global", "local"),
    ):
        yield LossConfig(
            form=form,
            policy=policy,
            centroid=centroid,
            negatives=negatives,
            mask_same_title=is_masked,
            mask_same_video=is_masked,
            temperature=0.2,
            learn_temperature=True,
            num_clusters=3,
            cluster_queue=8,
            cluster_every=1,
            weights=LossWeights(av=0.5, vt=2.0, avt=3.0, at=0.25),
        )


def name_of(config: LossConfig) -> str:
    return f"{config.form}-{config.policy}-{config.centroid}-{config.negatives}"


def rows_of_all(world_size: int) -> tuple[Tensor, Batch]:
    """The inputs float64 (N, INPUT) and the batch of all ranks."""
    size = PER_RANK * world_size
    flags = {"has_video": _VIDEO, "has_audio": _AUDIO, "has_text": _TEXT}
    if world_size == 2:
        flags = {"has_video": _EVEN, "has_audio": _EVEN[::-1], "has_text": [*_EVEN[3:], *_EVEN[:3]]}
    titles = [[1, ord(letter) - 90, 2] for letter in _TITLES[:size]]
    batch = Batch(
        video=torch.zeros(size, 1, 1, 1, 3, dtype=torch.uint8),
        log_mel=torch.zeros(size, 1, 1),
        token_ids=torch.tensor(titles) * torch.tensor(flags["has_text"][:size])[:, None],
        text_mask=torch.ones(size, 3, dtype=torch.bool),
        **{name: torch.tensor(flag[:size], dtype=torch.bool) for name, flag in flags.items()},
        clip_id=tuple(f"{letter * 11}_{row:06d}_{row + 1:06d}" for row, letter in enumerate(_VIDEOS[:size])),
        label=(None,) * size,
    )
    inputs = torch.randn(size, INPUT, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return inputs, batch


def build_model() -> nn.Linear:
    """One linear layer that gives all seven embeddings of a row."""
    torch.manual_seed(5)
    return nn.Linear(INPUT, EMBEDDING * len(NAMES), dtype=torch.float64)


def embeddings_of(outputs: Tensor) -> Embeddings:
    parts = nn.functional.normalize(outputs.unflatten(1, (len(NAMES), EMBEDDING)), dim=2)
    return Embeddings(**{name: parts[:, number] for number, name in enumerate(NAMES)})


def run(config: LossConfig, model: nn.Module, inputs: Tensor, batch: Batch, ranks: Ranks) -> dict[str, Tensor]:
    """The loss, its terms, its counts and every gradient, with the rows of this rank."""
    objective = Objective(config, EMBEDDING).double()
    embeddings = embeddings_of(model(inputs))
    objective.after_step(embeddings, batch, 1, ranks)
    model.zero_grad()
    loss = objective(embeddings, batch, ranks)
    loss.total.backward()
    average_gradients(objective.parameters(), ranks)
    result = {field.name: getattr(loss, field.name).detach() for field in fields(LossOutput)}
    gradients = dict(zip(("weight", "bias"), (p.grad.clone() for p in model.parameters()), strict=True))
    clusters = {} if objective.bank is None else {"clusters": objective.bank.clusters}
    return {**result, **gradients, **clusters, "log_scale": objective.log_scale.grad}


def _results(ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    inputs, batch = rows_of_all(ranks.world_size)
    own = slice(ranks.rank * PER_RANK, (ranks.rank + 1) * PER_RANK)
    replica = replicate(build_model(), ranks)
    found = {}
    for config in configs(ranks.world_size):
        found[name_of(config)] = run(config, replica, inputs[own], batch.rows(own.start, own.stop), ranks)
    return found


def _collectives(ranks: Ranks) -> dict[str, Any]:
    """What the single functions give."""
    own = torch.arange(6.0, dtype=torch.float64).reshape(2, 3).add(10 * ranks.rank).requires_grad_()
    gathered = gather(own[:, 1:], ranks)
    (gathered * torch.arange(len(gathered))[:, None] * (1 + ranks.rank)).sum().backward()
    replica = replicate(build_model(), ranks)
    sums = []
    for context in (no_sync(replica), no_sync(nn.Linear(1, 1)), no_sync(nn.Linear(1, 1))):
        with context:
            replica(torch.full((1, INPUT), 1.0 + ranks.rank, dtype=torch.float64)).sum().backward()
        sums.append(next(replica.parameters()).grad[0, 0].clone())
    claims = [any_rank(ranks.rank == asked, ranks, torch.device("cpu")) for asked in (0, 1, 99)]
    exact = torch.tensor([2**62 + 1 + ranks.rank, -(2**63)])
    own_rows = slice(ranks.rank * PER_RANK, (ranks.rank + 1) * PER_RANK)
    return {
        **{
            f"nce-{form}-{negatives}": nce_of(own_rows, form, negatives, ranks)
            for form, negatives in itertools.product(get_args(LossForm), get_args(Negatives))
        },
        "close_ids": _close_ids(ranks),
        "gathered": gathered.detach(),
        "gradient": own.grad,
        "hashes": gather(exact, ranks),
        "sums": torch.stack(sums),
        "claims": torch.tensor(claims),
        "from_main": from_main(torch.full((2,), 7.0 + ranks.rank), ranks),
    }


def nce_of(rows: slice, form: str, negatives: str, ranks: Ranks) -> dict[str, Tensor]:
    """NCE and its gradients by itself; groups tell numbers apart that no float does."""
    generator = torch.Generator().manual_seed(9)
    sides = torch.randn(2, PER_RANK * 3, 4, generator=generator, dtype=torch.float64)[:, rows]
    queries, keys = (side.clone().requires_grad_() for side in sides)
    group = 2**62 + torch.tensor([ord(letter) for letter in _TITLES])
    valid = torch.tensor(_AUDIO, dtype=torch.bool)
    loss = nce(
        queries, keys, form=form, valid_B=valid[rows], groups_BG=group[rows, None], negatives=negatives, ranks=ranks
    )
    loss.backward()
    return {"loss": loss.detach(), "queries": queries.grad, "keys": keys.grad}


def _close_ids(ranks: Ranks) -> Tensor:
    """The loss with all videos different, by a number that no float tells apart, and the loss without any."""
    inputs, batch = rows_of_all(ranks.world_size)
    own = slice(ranks.rank * PER_RANK, (ranks.rank + 1) * PER_RANK)
    losses = [
        lava_loss(
            embeddings_of(build_model()(inputs[own])),
            has_video=batch.has_video[own],
            has_audio=batch.has_audio[own],
            has_text=batch.has_text[own],
            videos_B=videos,
            ranks=ranks,
        )
        for videos in (2**62 + torch.arange(len(batch))[own], None)
    ]
    return torch.stack([loss.total.detach() for loss in losses])


def _lose_a_rank(ranks: Ranks, folder: Path) -> None:
    """Rank 1 dies while rank 0 is on its way into backward."""
    replica = replicate(build_model(), ranks)
    if ranks.rank == 1:
        os._exit(9)
    (folder / "started").write_text(str(time.monotonic()))
    replica(torch.ones(1, INPUT, dtype=torch.float64)).sum().backward()


def work_as(rank: int, folder: Path, ports: dict[int, str]) -> None:
    """Is a rank of each number of processes in turn, unless there are too few for it, and writes what it finds."""
    torch.set_num_threads(1)
    for world_size, port in ports.items():
        if rank >= world_size:
            return
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        try:
            with ranks_from_environment("cpu", timeout_seconds=90) as ranks:
                found = {"losses": _results(ranks), "collectives": _collectives(ranks)}
                torch.save(found, folder / f"{rank}_of_{world_size}.pt")
                if world_size == 2:
                    _lose_a_rank(ranks, folder)
        except RankLostError as error:
            started = float((folder / "started").read_text())
            (folder / "lost").write_text(f"{time.monotonic() - started} {error}")
