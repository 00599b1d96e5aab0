"""The training loop: one process or a rank of many, resumable at any step."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

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
from lava_model.data import TrainingData, batches_per_epoch, total_steps
from lava_model.distributed import Ranks, any_rank, from_main, wait_for_all
from lava_model.ema import MovingAverage
from lava_model.errors import CheckpointError, DataError
from lava_model.hardware import mfu, peak_memory_bytes
from lava_model.heldout import evaluate_heldout
from lava_model.interrupts import StopRequest
from lava_model.loading import batches_of
from lava_model.metrics import report
from lava_model.model import Lava
from lava_model.objective import Objective
from lava_model.optim import load_optimizer, lr_at
from lava_model.pace import Pace, TimedBatches, clock
from lava_model.profiling import Profile
from lava_model.settings import flatten, to_dict
from lava_model.step import StepResult, TrainStep
from lava_model.tracking import JsonlLog, Tracker, Values, open_trackers
from lava_model.trained import first_weights

QUIET_SECONDS = 30.0
"""Where logged steps lie further apart than this, a person hears about the pace in between; the log does not."""
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
        "data.micro_batch",
        "run.out",
        "run.init_from",
        "run.device",
        "run.compile",
        "run.log_every",
        "run.eval_every",
        "run.checkpoint_every",
        "run.keep_checkpoints",
        "run.tensorboard",
        "run.wandb",
        "run.profile_steps",
        "run.peak_tflops",
    }
)
"""Settings that a resumed run may change. Files may move: the fingerprint says whether they are the same; the trunk's
weights come from the checkpoint. With another ``micro_batch``, device or ``compile`` the run goes on the same up to
rounding (and, with dropout, with other draws); with the rest bit for bit."""


LENGTH_SETTINGS = frozenset({"run.epochs", "run.max_steps"})
"""Settings that say where a run ends. Changed, they stretch the learning-rate schedule: only who asks may do that."""


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
        """All steps are done, and the last evaluation."""
        return self.step >= self.total_steps and self.stopped_by is None


class Trainer:
    """Trains a model on data into a run folder, continuing whatever is there.

    Attributes:
        model: that trains.
        evaluated: that is evaluated and to be exported: the moving average of the former if one is kept, else itself.
        objective: the loss.
        step: optimiser steps done.
        total_steps: optimiser steps of the whole run.
        resumed_from: step that this process started from, if it continues a run.
        length_before: optimiser steps that the whole run had until now, where this start changes them.
        begun_with: checkpoint file or exported folder that the run has its first weights from, if not from the seed.
        notes: what a person should know about that, one line each.
    """

    def __init__(
        self,
        config: PretrainConfig,
        data: TrainingData,
        *,
        device: torch.device,
        ranks: Ranks | None = None,
        progress: Callable[[str], None] = lambda line: None,
        may_extend: bool = False,
    ) -> None:
        """Builds the model and optimiser, or takes them from the newest checkpoint.

        Args:
            config: of the run.
            data: what to train on.
            device: where to train.
            ranks: which process this is; None: the only one.
            progress: takes one line of progress at each log step, and where these are far apart, in between.
            may_extend: whether a run may go on with another number of steps than it had; the learning-rate schedule is
                then stretched over the new number.

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
        self.step = 0
        self.resumed_from: int | None = None
        self.length_before: int | None = None
        self.begun_with: Path | None = None
        self.notes: list[str] = []
        self._may_extend = may_extend
        newest = list_checkpoints(self.out / "checkpoints")
        state = self._load(newest[-1]) if newest else None
        self._seed()
        self.model = self._build_model(state).to(device)
        self.objective = Objective(config.loss, config.model.embedding_dim).to(device)
        self._average = MovingAverage(self.model, config.optim.ema_decay) if config.optim.ema_decay else None
        self.evaluated = self._average.model if self._average else self.model
        self._make_step = TrainStep(self.model, self.objective, config, device=device, ranks=self.ranks)
        if state is not None:
            self._resume(state)
        self._check_agreement()
        self._trackers: list[Tracker] = []
        self._has_read = False
        self._last: dict[str, Values] = {"train": {}, "val": {}}
        self._pace = Pace()

    def run(self) -> TrainResult:
        """Trains to the end or to a stop signal, with a checkpoint at either.

        Raises:
            NonFiniteLossError: the loss or its gradient is not a number; the weights of the last good step stay.
            CheckpointError: a checkpoint cannot be written.
            OutputError: the log cannot be written.
            DataError: too many clips do not decode, or all that were read; or a loader process died.
        """
        self._open_trackers()
        try:
            # Closing ends the loader's processes, whatever an error on its way up still holds.
            with (
                StopRequest() as stop,
                Profile(self.config, self.out, self.device, self.ranks, say=self.progress) as profile,
                closing(self._batches()) as batches,
            ):
                was_stopped = self._train(stop, profile, TimedBatches(batches))
        finally:
            for tracker in self._trackers:
                tracker.close()
        return TrainResult(
            step=self.step,
            total_steps=self.total_steps,
            resumed_from=self.resumed_from,
            stopped_by=(stop.signal_name or "a signal to another process") if was_stopped else None,
            samples_per_second=self._samples_per_second(self._pace),
            last_train=self._last["train"],
            last_val=self._last["val"],
        )

    def _train(self, stop: StopRequest, profile: Profile, batches: TimedBatches) -> bool:
        """Returns whether a signal stopped it before all was done."""
        if self._lacks_evaluation() and self._evaluate(stop):
            self._save()
            return True
        window, told = Pace(), 0.0  # since the last line of the log; how much of it a person has heard about
        while self.step < self.total_steps:
            started, waited = time.perf_counter(), batches.waited_seconds
            is_last = self.step + 1 == self.total_steps
            is_logged = is_last or (self.step + 1) % self.config.run.log_every == 0
            result = self._train_step(batches, measuring=is_logged)
            stopping = any_rank(stop.is_asked, self.ranks, self.device)
            for pace in (self._pace, window):
                pace.add(time.perf_counter() - started, batches.waited_seconds - waited)
            profile.step()  # after the clock: writing the recording takes seconds
            if is_logged:
                self._log_train(result, window)
                window, told = Pace(), 0.0
            elif window.seconds - told >= QUIET_SECONDS:
                told = window.seconds
                self.progress(f"step {self.step}/{self.total_steps}  {self._pace_line(window)}")
            # A signal ends the evaluation too: it is made when the run goes on, before the next step.
            was_cut = self._evaluates_at(self.step) and self._evaluate(stop)
            stopping = stopping or was_cut
            if is_last or stopping or self.step % self.config.run.checkpoint_every == 0:
                self._check_reading()
                self._save()
            if stopping:
                return was_cut or not is_last
        return False

    def _evaluates_at(self, step: int) -> bool:
        every = self.config.run.eval_every
        return self.data.val is not None and (step in (0, self.total_steps) or (every > 0 and step % every == 0))

    def _lacks_evaluation(self) -> bool:
        """Returns whether the model as it stands was to be evaluated, and a signal came first."""
        lacks = False
        if self.ranks.is_main:  # which alone has the log
            log = self._trackers[0]
            assert isinstance(log, JsonlLog)
            lacks = self._evaluates_at(self.step) and log.last_step.get("val") != self.step
        return any_rank(lacks, self.ranks, self.device)

    def _train_step(self, batches: Iterator[Batch], *, measuring: bool) -> StepResult:
        lr = lr_at(self.step, self.total_steps, self.config.optim)
        result = self._make_step(batches, self.step, lr, measuring=measuring)
        self.step += 1
        if self._average:
            self._average.update(self.step)
        return result

    @torch.no_grad()
    def _log_train(self, result: StepResult, pace: Pace) -> None:
        samples_per_second = self._samples_per_second(pace)
        memory_bytes = peak_memory_bytes(self.device)
        numbers = {
            **report(result.measured),
            "grad_norm": float(result.grad_norm),
            "lr": lr_at(self.step - 1, self.total_steps, self.config.optim),
            "temperature": float(self.objective.temperature),
            "epoch": self._epoch(self.step - 1),
            "samples_per_second": samples_per_second,
            "data_wait_percent": pace.waited_percent,
            "mfu_percent": mfu(samples_per_second, self.config, self.device, self.ranks.world_size),
            "peak_memory_gib": None if memory_bytes is None else memory_bytes / 2**30,
        }
        self._log("train", numbers)
        used = "" if numbers["mfu_percent"] is None else f"  MFU {numbers['mfu_percent']:.0f} %"
        self.progress(
            f"step {self.step}/{self.total_steps}  loss {numbers['loss']:.3f}"
            f"  R@1 av {_percent(numbers['recall_at_1_av'])} vt {_percent(numbers['recall_at_1_vt'])}"
            f"  {self._pace_line(pace, used)}"
        )

    def _pace_line(self, pace: Pace, used: str = "") -> str:
        left = clock((self.total_steps - self.step) * pace.seconds / pace.steps)
        rate = f"{self._samples_per_second(pace):.0f} samples/s  data wait {pace.waited_percent:.0f} %"
        return f"{rate}{used}  {left} left"

    def _evaluate(self, stop: StopRequest) -> bool:
        """Evaluates, and returns whether a signal came before the end of it; of all ranks the main one does it."""
        was_cut = False
        if self.data.val is not None and self.ranks.is_main:
            numbers = evaluate_heldout(
                self.evaluated,
                self.objective,
                self.data.val,
                self.config,
                self.device,
                self._make_step.autocast,
                self.ranks.world_size,
                stops=lambda: stop.is_asked,
            )
            was_cut = numbers is None
            if numbers is not None:
                self._tell_heldout(numbers)
        return any_rank(was_cut, self.ranks, self.device)

    def _tell_heldout(self, numbers: Values) -> None:
        self._log("val", numbers)
        self.progress(
            f"step {self.step}/{self.total_steps}  held-out loss {numbers['loss']:.3f} (chance {numbers['chance']:.3f})"
            f"  R@1 among {numbers['num_all_av']} av {_percent(numbers['recall_at_1_all_av'])}"
            f" among {numbers['num_all_vt']} vt {_percent(numbers['recall_at_1_all_vt'])}"
        )

    def _log(self, kind: str, numbers: Values) -> None:
        self._last[kind] = numbers
        for tracker in self._trackers:
            tracker.log(kind, self.step, numbers)

    def _samples_per_second(self, pace: Pace) -> float:
        data = self.config.data
        return pace.steps_per_second * data.batch_size * data.accumulate * self.ranks.world_size

    def _batches(self) -> Generator[Batch, None, None]:
        data = self.config.data
        order = StepSampler(
            len(self.data.train),
            data.batch_size,
            self.config.run.seed,
            start_step=self.step * data.accumulate,
            num_steps=(self.total_steps - self.step) * data.accumulate,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            chunk_size=data.chunk_size,
            buffer_chunks=data.buffer_chunks,
        )
        with closing(batches_of(self.data.train, order, num_workers=data.num_workers, device=self.device)) as batches:
            for batch in batches:
                # Of a GPU this waits for the copy: once, as a rule.
                self._has_read = self._has_read or bool((batch.has_video | batch.has_audio).any())
                yield batch

    def _check_reading(self) -> None:
        """Refuses to save what has learned from no clip at all, of all ranks.

        Raises:
            DataError: not one clip that this process read has frames or sound.
        """
        self._has_read = any_rank(self._has_read, self.ranks, self.device)
        if not self._has_read:
            reason = next(iter(self.data.failures.values()), "clips without video and without sound")
            raise DataError(f"not one of the clips that were read has frames or sound, nothing is saved: {reason}")

    def _open_trackers(self) -> None:
        if not self.ranks.is_main:
            return
        if self.step >= self.total_steps:  # nothing is to be told to anyone
            self._trackers = [JsonlLog(self.out / "log.jsonl", resume_step=self.resumed_from)]
        else:
            self._trackers = open_trackers(self.config, self.out, self.resumed_from, say=self.progress)
        log = self._trackers[0]
        assert isinstance(log, JsonlLog)
        self._last.update(log.last)

    def _seed(self) -> None:
        random.seed(self.config.run.seed)
        np.random.seed(self.config.run.seed)
        torch.manual_seed(self.config.run.seed)

    def _load(self, path: Path) -> TrainingState:
        state = load_checkpoint(path)
        check_same_run(
            state,
            to_dict(self.config),
            self.data.fingerprint,
            free=FREE_SETTINGS | LENGTH_SETTINGS if self._may_extend else FREE_SETTINGS,
            path=path,
            world_size=self.ranks.world_size,
        )
        if self._may_extend and self._length_changed(state):
            if self.total_steps < state.step:
                raise CheckpointError(
                    f"the run in {self.out} stands at step {state.step} already, so it cannot end at step"
                    f" {self.total_steps}: pass --max-steps {state.step} or more (with enough --epochs), or use another"
                    " --out"
                )
            self.length_before = state.total_steps
        elif state.total_steps != self.total_steps:  # version 1 does not tell the number of processes
            raise CheckpointError(
                f"{path} is of a run of {state.total_steps} steps, this one has {self.total_steps}: start as many"
                " processes as before, or use another --out"
            )
        if not 0 <= state.step <= state.total_steps:
            raise CheckpointError(f"{path} is at step {state.step} of {state.total_steps}: it is damaged, move it away")
        if self.config.run.init_from not in (None, state.config.get("run", {}).get("init_from")):
            self.notes.append("--init-from is not looked at: the run goes on with the weights of its own checkpoint")
        return state

    def _length_changed(self, state: TrainingState) -> bool:
        theirs, ours = flatten(state.config), flatten(to_dict(self.config))
        is_asked = any(theirs.get(name) != ours[name] for name in LENGTH_SETTINGS)
        return is_asked and state.total_steps != self.total_steps

    def _build_model(self, state: TrainingState | None) -> Lava:
        """Returns the initialised model, or that of a checkpoint, whose trunk weights need not be found again."""
        config = self.config
        if state is not None:
            return Lava.from_state(config.model, state.model, source=config.run.out)
        if config.run.init_from is None:
            return Lava(config.model)
        found = first_weights(Path(config.run.init_from), config.model)
        self.begun_with = found.place
        ours = self.data.fingerprint.get("tokenizer")
        if None not in (found.tokenizer, ours) and found.tokenizer != ours:
            self.notes.append(
                f"{found.place} was trained with another tokenizer: the same ids are other words, so the text encoder"
                " begins with less than it seems"
            )
        return Lava.from_state(config.model, found.state, source=found.place)

    def _resume(self, state: TrainingState) -> None:
        try:
            load_optimizer(self._make_step.optimizer, state.optimizer)
            self.objective.load_state_dict(state.objective)
            if self._average:
                self._average.load_state_dict(state.ema)
            restore_rng(state.rng)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.out} holds another optimiser, objective or other random states:"
                " use another --out"
            ) from error
        self.step = self.resumed_from = state.step

    def _check_agreement(self) -> None:
        step = int(from_main(torch.tensor(self.step, device=self.device), self.ranks))
        if any_rank(step != self.step, self.ranks, self.device):
            raise CheckpointError(
                f"process {self.ranks.rank} finds the run in {self.out} at step {self.step}, the main one at {step}:"
                " all must see the same folder"
            )

    def _save(self) -> None:
        if self.ranks.is_main:
            state = TrainingState(
                step=self.step,
                epoch=self._epoch(self.step),
                total_steps=self.total_steps,
                config=to_dict(self.config),
                fingerprint=self.data.fingerprint,
                model=self.model.state_dict(),
                optimizer=self._make_step.optimizer.state_dict(),
                rng=capture_rng(),
                objective=self.objective.state_dict(),
                ema=self._average.state_dict() if self._average else {},
                world_size=self.ranks.world_size,
            )
            save_checkpoint(self.out / "checkpoints", state, keep=self.config.run.keep_checkpoints)
        wait_for_all(self.ranks)

    def _epoch(self, step: int) -> int:
        """Returns the passes over the data that are done before a step."""
        batches = batches_per_epoch(len(self.data.train), self.config, self.ranks.world_size)
        return step * self.config.data.accumulate // batches


def _percent(share: float | int | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
