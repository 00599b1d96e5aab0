"""The training loop: one process or a rank of many, resumable at any step."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from k700_text.data.sample import Batch
from k700_text.data.sampler import StepSampler
from lava_model.checkpoint import (
    TrainingState,
    capture_rng,
    check_same_run,
    list_checkpoints,
    load_checkpoint,
    restore_rng,
    save_checkpoint,
)
from lava_model.config import PretrainConfig
from lava_model.data import TrainingData, steps_per_epoch, total_steps
from lava_model.distributed import Ranks, any_rank, replicate, wait_for_all
from lava_model.errors import CheckpointError, NonFiniteLossError
from lava_model.files import writing
from lava_model.heldout import evaluate_heldout
from lava_model.interrupts import StopRequest
from lava_model.loading import batches_of
from lava_model.loss import batch_loss
from lava_model.metrics import measure, report
from lava_model.model import Lava
from lava_model.optim import build_optimizer, lr_at, set_lr
from lava_model.settings import to_dict
from lava_model.tracking import JsonlLog, TensorBoardLog, Tracker, Values

FREE_SETTINGS = frozenset(
    {
        "model.trunk_weights",
        "data.manifest",
        "data.clips",
        "data.tokenizer",
        "data.val_manifest",
        "data.val_clips",
        "data.packets",
        "data.val_packets",
        "data.num_workers",
        "run.out",
        "run.device",
        "run.compile",
        "run.log_every",
        "run.eval_every",
        "run.checkpoint_every",
        "run.keep_checkpoints",
        "run.tensorboard",
    }
)
"""Settings that a resumed run may change. Files may move: the fingerprint says whether they are the same; the trunk's
weights come from the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    step: int
    """Optimiser steps done, those before a resume included."""
    total_steps: int
    """Steps of the whole run."""
    resumed_from: int | None
    """Step that this process started from, if it continued a run."""
    stopped_by: str | None
    """Signal that ended it early, if any."""
    samples_per_second: float
    """Over this process's steps, all ranks together, evaluation and checkpoints left out."""
    last_train: Values
    """The last numbers logged in training."""
    last_val: Values
    """The last held-out numbers, empty without held-out clips."""

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.step >= self.total_steps


class Trainer:
    """Trains a model on data into a run folder, continuing whatever is there."""

    def __init__(
        self,
        config: PretrainConfig,
        data: TrainingData,
        *,
        device: torch.device,
        ranks: Ranks | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Builds the model and optimiser, or takes them from the newest checkpoint.

        Args:
            config: of the run.
            data: what to train on.
            device: where to train.
            ranks: which process this is; None: the only one.
            progress: takes one line of progress at each log step.

        Raises:
            CheckpointError: the run folder's checkpoint cannot be read or is of another configuration or data.
            DataError: there are too few samples.
        """
        self.config = config
        self.data = data
        self.device = device
        self.ranks = ranks or Ranks()
        self.progress = progress
        self.out = Path(config.run.out)
        self.total_steps = total_steps(len(data.train), config, self.ranks.world_size)
        self.steps_per_epoch = steps_per_epoch(len(data.train), config, self.ranks.world_size)
        self.step = 0
        self.resumed_from: int | None = None
        newest = list_checkpoints(self.out / "checkpoints")
        state = self._load(newest[-1]) if newest else None
        self._seed()
        self.model = _build_model(config, state).to(device)
        self.optimizer = build_optimizer(self.model, config.optim)
        if state is not None:
            self._resume(state)
        self._own_randomness()
        if config.run.compile:
            self.model.compile()
        self._replica = replicate(self.model, self.ranks)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=_uses_bf16(config, device))
        self._trackers: list[Tracker] = []
        self._last: dict[str, Values] = {"train": {}, "val": {}}
        self._num_steps, self._seconds, self._waited_seconds = 0, 0.0, 0.0

    def run(self) -> TrainResult:
        """Trains to the end or to a stop signal, with a checkpoint at either.

        Raises:
            NonFiniteLossError: the loss or its gradient is not a number; the weights of the last good step stay.
            CheckpointError: a checkpoint cannot be written.
            OutputError: the log cannot be written.
            DataError: too many clips do not decode, or a loader process died.
        """
        self._open_trackers()
        try:
            # Closing ends the loader's processes, whatever an error on its way up still holds.
            with StopRequest() as stop, closing(self._batches()) as batches:
                self._train(stop, batches)
        finally:
            for tracker in self._trackers:
                tracker.close()
        return TrainResult(
            step=self.step,
            total_steps=self.total_steps,
            resumed_from=self.resumed_from,
            stopped_by=None if self.step >= self.total_steps else stop.signal_name,
            samples_per_second=self._samples_per_second(self._num_steps, self._seconds),
            last_train=self._last["train"],
            last_val=self._last["val"],
        )

    def _train(self, stop: StopRequest, batches: Iterator[Batch]) -> None:
        run = self.config.run
        if self.step == 0:
            self._evaluate()
        window_steps, window_start, window_waited = 0, time.perf_counter(), 0.0
        while self.step < self.total_steps:
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            measured = self._train_step(batch)
            window_steps, window_waited = window_steps + 1, window_waited + waited
            self._num_steps, self._seconds = self._num_steps + 1, self._seconds + time.perf_counter() - started
            is_last = self.step == self.total_steps
            if self.step % run.log_every == 0 or is_last:
                seconds = time.perf_counter() - window_start
                self._log_train(measured, window_steps, seconds, window_waited)
                window_steps, window_start, window_waited = 0, time.perf_counter(), 0.0
            if is_last or (run.eval_every and self.step % run.eval_every == 0):
                self._evaluate()
                window_start = time.perf_counter()
            stopping = any_rank(stop.signal_name is not None, self.ranks, self.device)
            if is_last or stopping or self.step % run.checkpoint_every == 0:
                self._save()
                window_start = time.perf_counter()
            if stopping:
                return

    def _train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Makes one optimiser step and returns its numbers, still on the device."""
        set_lr(self.optimizer, lr_at(self.step, self.total_steps, self.config.optim))
        self.model.train()
        with self._autocast:
            embeddings = self._replica(batch)
        loss = batch_loss(embeddings, batch, self.config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        limit = self.config.optim.clip_norm or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        measured = {**measure(embeddings, batch, loss), "grad_norm": grad_norm}
        # One look at the device per step; the update must not happen if the numbers are no numbers.
        if any_rank(not bool(torch.isfinite(loss.total.detach() + grad_norm)), self.ranks, self.device):
            self._refuse_step(batch, measured)
        self.optimizer.step()
        self.step += 1
        return measured

    def _refuse_step(self, batch: Batch, measured: dict[str, Tensor]) -> None:
        path = self.out / f"nonfinite_step_{self.step:08d}_rank_{self.ranks.rank}.json"
        numbers = {name: repr(float(value)) for name, value in measured.items()}
        content = {"step": self.step, "clip_ids": list(batch.clip_id), "numbers": numbers}
        with writing(path):
            path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite at step {self.step}; the batch's clips are listed in {path};"
            f" look at them, or try a lower --optim.lr, then run again from the last checkpoint",
            report_path=path,
        )

    def _log_train(self, measured: dict[str, Tensor], num_steps: int, seconds: float, waited: float) -> None:
        numbers = report([{name: value for name, value in measured.items() if name != "grad_norm"}])
        numbers["grad_norm"] = float(measured["grad_norm"])
        numbers["lr"] = lr_at(self.step - 1, self.total_steps, self.config.optim)
        numbers["epoch"] = (self.step - 1) // self.steps_per_epoch
        numbers["samples_per_second"] = self._samples_per_second(num_steps, seconds)
        numbers["data_wait_percent"] = 100 * waited / seconds if seconds else 0.0
        self._log("train", numbers)
        left = (self.total_steps - self.step) * seconds / max(1, num_steps)
        self.progress(
            f"step {self.step}/{self.total_steps}  loss {numbers['loss']:.3f}"
            f"  R@1 av {_percent(numbers['recall_at_1_av'])} vt {_percent(numbers['recall_at_1_vt'])}"
            f"  {numbers['samples_per_second']:.0f} samples/s  data wait {numbers['data_wait_percent']:.0f} %"
            f"  {_clock(left)} left"
        )

    def _evaluate(self) -> None:
        if self.data.val is None:
            return
        numbers = evaluate_heldout(self.model, self.data.val, self.config, self.device, self._autocast)
        self._log("val", numbers)
        self.progress(
            f"step {self.step}/{self.total_steps}  held-out loss {numbers['loss']:.3f} (chance {numbers['chance']:.3f})"
            f"  R@1 av {_percent(numbers['recall_at_1_av'])} vt {_percent(numbers['recall_at_1_vt'])}"
        )

    def _log(self, kind: str, numbers: Values) -> None:
        self._last[kind] = numbers
        for tracker in self._trackers:
            tracker.log(kind, self.step, numbers)

    def _samples_per_second(self, num_steps: int, seconds: float) -> float:
        samples = num_steps * self.config.data.batch_size * self.ranks.world_size
        return samples / seconds if seconds else 0.0

    def _batches(self) -> Generator[Batch, None, None]:
        order = StepSampler(
            len(self.data.train),
            self.config.data.batch_size,
            self.config.run.seed,
            start_step=self.step,
            num_steps=self.total_steps - self.step,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            chunk_size=self.config.data.chunk_size,
            buffer_chunks=self.config.data.buffer_chunks,
        )
        return batches_of(self.data.train, order, num_workers=self.config.data.num_workers, device=self.device)

    def _open_trackers(self) -> None:
        if not self.ranks.is_main:
            return
        log = JsonlLog(self.out / "log.jsonl", resume_step=self.resumed_from)
        self._last.update(log.last)
        self._trackers.append(log)
        if self.config.run.tensorboard:
            self._trackers.append(TensorBoardLog(self.out / "tensorboard", resume_step=self.resumed_from))

    def _seed(self) -> None:
        random.seed(self.config.run.seed)
        np.random.seed(self.config.run.seed)
        torch.manual_seed(self.config.run.seed)

    def _load(self, path: Path) -> TrainingState:
        state = load_checkpoint(path)
        check_same_run(state, to_dict(self.config), self.data.fingerprint, free=FREE_SETTINGS, path=path)
        return state

    def _resume(self, state: TrainingState) -> None:
        try:
            self.optimizer.load_state_dict(state.optimizer)
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the checkpoint in {self.out} holds another optimiser: use another --out") from error
        restore_rng(state.rng)
        self.step = self.resumed_from = state.step

    def _own_randomness(self) -> None:
        # Ranks start from the same weights but draw their own dropout; rank 0's state is the checkpoint's.
        if not self.ranks.is_main:
            torch.manual_seed(self.config.run.seed + 1_000_003 * self.ranks.rank + self.step)

    def _save(self) -> None:
        if self.ranks.is_main:
            state = TrainingState(
                step=self.step,
                epoch=self.step // self.steps_per_epoch,
                total_steps=self.total_steps,
                config=to_dict(self.config),
                fingerprint=self.data.fingerprint,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                rng=capture_rng(),
            )
            save_checkpoint(self.out / "checkpoints", state, keep=self.config.run.keep_checkpoints)
        wait_for_all(self.ranks)


def _build_model(config: PretrainConfig, state: TrainingState | None) -> Lava:
    """Returns the initialised model, or that of a checkpoint, whose trunk weights need not be found again."""
    if state is None:
        return Lava(config.model)
    return Lava.from_state(config.model, state.model, source=config.run.out)


def _uses_bf16(config: PretrainConfig, device: torch.device) -> bool:
    return config.run.precision == "bf16" or (config.run.precision == "auto" and device.type == "cuda")


def _percent(share: float | int | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
