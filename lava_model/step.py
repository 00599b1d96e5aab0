"""One optimiser step: the gradient of a batch, or the mean of several, then the update.

A batch goes through the model whole, or by micro-batches with GradCache (Gao et al. 2021, arXiv 2101.06983): a first
pass takes the embeddings of all micro-batches, the loss of the whole batch gives the gradient of each embedding, and a
second pass carries these gradients into the parameters, micro-batch by micro-batch. Value and gradient are those of
the whole batch; only the activations of one micro-batch are held at a time.

Dropout is drawn from a seed of each batch and rank, so that the second pass draws what the first one drew, and a
resumed run what an uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from k700_text.data.sample import Batch
from lava_model.config import PretrainConfig
from lava_model.distributed import Ranks, average_gradients, no_sync, replicate
from lava_model.errors import NonFiniteLossError
from lava_model.files import write_json, writing
from lava_model.hardware import uses_bf16
from lava_model.loss import LossOutput
from lava_model.metrics import measure
from lava_model.model import Embeddings, Lava
from lava_model.objective import Objective
from lava_model.optim import build_optimizer, set_lr


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step leaves to be logged, still on the device."""

    measured: list[dict[str, Tensor]]
    """Numbers of each batch on this rank, as ``metrics.measure`` gives them; empty where they were not asked for."""
    grad_norm: Tensor
    """Length of the gradient before it was clipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A batch whose gradient has been taken, without its graph."""

    clip_ids: tuple[str, ...]
    embeddings: Embeddings
    loss: LossOutput


class TrainStep:
    """Makes optimiser steps on the parameters of a model and of its objective."""

    def __init__(
        self,
        model: Lava,
        objective: Objective,
        config: PretrainConfig,
        *,
        device: torch.device,
        ranks: Ranks | None = None,
        reports: Path | None = None,
    ) -> None:
        """Takes the model, which is on the device already, and compiles it if so configured.

        Args:
            model: what to train.
            objective: its loss, on the device as well.
            config: of the run.
            device: where model and batches are.
            ranks: which process this is; None: the only one.
            reports: folder for the list of clips of a step that is not finite; None: the one of the run.
        """
        self.model, self.objective = model, objective
        self.config = config
        self.device = device
        self.ranks = ranks or Ranks()
        self.reports = reports or Path(config.run.out)
        self.optimizer = build_optimizer(nn.ModuleList([model, objective]), config.optim)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config.run.precision, device))
        if config.run.compile:
            model.compile()
        self._replica = replicate(model, self.ranks)
        self._is_rehearsed = self.ranks.is_alone

    def __call__(self, batches: Iterator[Batch], step: int, lr: float, *, measuring: bool = False) -> StepResult:
        """Makes a step.

        Args:
            batches: gives ``data.accumulate`` batches on the device; each may be overwritten once the next is taken.
            step: number of the step, from 0.
            lr: learning rate.
            measuring: measure the batches.

        Raises:
            NonFiniteLossError: the loss or its gradient is not finite, on any rank; the weights are as they were.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        accumulate = self.config.data.accumulate
        seen, measured = [], []
        for number in range(accumulate):
            batch = next(batches)
            self._rehearse(batch)
            is_cut = (self.config.data.micro_batch or len(batch)) < len(batch)
            take = self._by_micro_batches if is_cut else self._whole
            seen.append(take(batch, step * accumulate + number, is_last=number == accumulate - 1))
            if measuring:
                measured.append(measure(seen[-1].embeddings, batch, seen[-1].loss))
        average_gradients(self.objective.parameters(), self.ranks)
        grad_norm = self._clip()
        self._guard(seen, grad_norm, step)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        # Of several batches the last: the others may be overwritten by now.
        self.objective.after_step(seen[-1].embeddings, batch, step + 1, self.ranks)
        return StepResult(measured=measured, grad_norm=grad_norm)

    def _rehearse(self, batch: Batch) -> None:
        """Makes a backward pass over ranks for nothing, once.

        After its first one DDP orders gradients as they came, and sums them in another order from then on. Every start
        of a run begins after that, so that one which is resumed goes on with the very numbers of one which is not.
        """
        if self._is_rehearsed:
            return
        self._is_rehearsed = True
        rows = slice(0, min(len(batch), self.config.data.micro_batch or len(batch)))
        with self.autocast:
            patches_BTPC = self.model.patches(batch)[rows]
        embeddings = self._embed(batch.rows(rows.start, rows.stop), patches_BTPC)
        torch.autograd.backward([tensor.sum() for tensor in _tensors(embeddings)])
        self.optimizer.zero_grad(set_to_none=True)

    def _whole(self, batch: Batch, number: int, *, is_last: bool) -> _Seen:
        self._seed(number)
        with self._averaging(is_last):
            embeddings = self._embed(batch, None)
            loss = self._backward(embeddings, batch)
        return _Seen(clip_ids=batch.clip_id, embeddings=embeddings.map(Tensor.detach), loss=loss)

    def _by_micro_batches(self, batch: Batch, number: int, *, is_last: bool) -> _Seen:
        size = self.config.data.micro_batch
        assert size is not None
        parts = [(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]
        with self.autocast:
            patches_BTPC = self.model.patches(batch)
        self._seed(number)
        # Without gradient other kernels may run and draw other dropout: where there is some, pass 1 is as pass 2.
        with torch.set_grad_enabled(self.model.config.dropout > 0), no_sync(self._replica):
            found = [self._embed(batch.rows(*part), patches_BTPC[slice(*part)]).map(Tensor.detach) for part in parts]
        leaves = Embeddings.cat(found).map(Tensor.requires_grad_)
        loss = self._backward(leaves, batch)
        gradients = leaves.map(lambda leaf_BE: torch.zeros_like(leaf_BE) if leaf_BE.grad is None else leaf_BE.grad)
        self._seed(number)
        for part in parts:
            with self._averaging(is_last and part is parts[-1]):
                embeddings = self._embed(batch.rows(*part), patches_BTPC[slice(*part)])
                torch.autograd.backward(_tensors(embeddings), [whole[slice(*part)] for whole in _tensors(gradients)])
        return _Seen(clip_ids=batch.clip_id, embeddings=leaves.map(Tensor.detach), loss=loss)

    def _embed(self, batch: Batch, patches_BTPC: Tensor | None) -> Embeddings:
        # Entered anew each time: autocast keeps copies of the weights, and those made without gradient have none.
        with self.autocast:
            embeddings: Embeddings = self._replica(batch, patches_BTPC)
        return embeddings

    def _backward(self, embeddings: Embeddings, batch: Batch) -> LossOutput:
        """Adds the gradient of a batch's share in the step and returns its loss, detached."""
        loss = self.objective(embeddings, batch, self.ranks)
        (loss.total / self.config.data.accumulate).backward()
        return LossOutput(**{field.name: getattr(loss, field.name).detach() for field in fields(LossOutput)})

    def _averaging(self, is_last: bool) -> AbstractContextManager[None]:
        """Returns a context for forward and backward; gradients are averaged over ranks in the last one of a step."""
        return nullcontext() if is_last else no_sync(self._replica)

    def _seed(self, number: int) -> None:
        mixed = np.random.SeedSequence([self.config.run.seed, number, self.ranks.rank]).generate_state(1, np.uint64)
        # torch.manual_seed asks after every kind of device there may be, which takes longer than a small step should.
        torch.default_generator.manual_seed(int(mixed[0]))
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(int(mixed[0]))

    def _clip(self) -> Tensor:
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        if self.config.optim.clip_norm:
            nn.utils.clip_grads_with_norm_(trained, self.config.optim.clip_norm, norm)
        return norm

    def _guard(self, seen: list[_Seen], grad_norm: Tensor, step: int) -> None:
        """Refuses a step whose numbers are no numbers, on all ranks at once: they have the same loss and gradient.

        It is the only look at the device in a step of one process.
        """
        if torch.isfinite(grad_norm + sum(batch.loss.total for batch in seen)):
            return
        path = self.reports / f"nonfinite_step_{step:08d}_rank_{self.ranks.rank}.json"
        content = {
            "step": step,
            "clip_ids": [clip_id for batch in seen for clip_id in batch.clip_ids],
            "clip_ids_without_finite_embeddings": [clip_id for batch in seen for clip_id in _not_finite(batch)],
            "losses": [repr(float(batch.loss.total)) for batch in seen],
            "grad_norm": repr(float(grad_norm)),
        }
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite at step {step}; the batch's clips are listed in {path}: look at"
            " them, then run again from the last checkpoint; or start anew with a lower --optim.lr and another --out",
            report_path=path,
        )


def _not_finite(batch: _Seen) -> list[str]:
    """Returns the clips that have an embedding which is not finite, on whichever side the fault lies."""
    bad_B = torch.stack([~tensor.isfinite().all(dim=1) for tensor in _tensors(batch.embeddings)]).any(dim=0)
    return [clip_id for clip_id, is_bad in zip(batch.clip_ids, bad_B.tolist(), strict=True) if is_bad]


def _tensors(embeddings: Embeddings) -> list[Tensor]:
    return [getattr(embeddings, field.name) for field in fields(Embeddings)]
