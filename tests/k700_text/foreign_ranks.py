"""What test_foreign_loops.py runs on each of two ranks: three epochs over KineticsAVT in a loop of somebody else.

Nothing is said of the first two epochs; the last is set.

Run as a program it is one rank, with torchrun's environment:
``python -m tests.k700_text.foreign_ranks LOOP MANIFEST CLIPS OUT``. It writes what each clip looked like, by epoch and
clip id, as ``OUT/RANK.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from k700_text import Batch, KineticsAVT
from k700_text.config import VideoConfig

NUM_EPOCHS = 3
Seen = list[dict[str, str]]


def open_dataset(manifest: str | Path, clips: str | Path) -> KineticsAVT:
    return KineticsAVT(manifest, clips, video=VideoConfig(size=16, short_side=18, num_frames=2), seed=3)


def open_loader(dataset: KineticsAVT) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=2, shuffle=True, num_workers=1, persistent_workers=True)


def fingerprints(batch: Batch) -> dict[str, str]:
    content = (video.numpy().tobytes() + mel.numpy().tobytes() for video, mel in zip(batch.video, batch.log_mel))  # noqa: B905
    return {clip_id: hashlib.sha256(each).hexdigest() for clip_id, each in zip(batch.clip_id, content, strict=True)}


def loss_of(model: torch.nn.Module, batch: Batch) -> Tensor:
    found: Tensor = model(batch.log_mel.mean(2)).square().mean()
    return found


def by_lightning(dataset: KineticsAVT, out: Path) -> Seen:
    import lightning

    seen: Seen = [{} for _ in range(NUM_EPOCHS)]

    class Module(lightning.LightningModule):  # type: ignore[misc]  # not there where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(80, 1)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == NUM_EPOCHS - 1:
                dataset.set_epoch(self.current_epoch)

        def training_step(self, batch: Batch, number: int) -> Tensor:
            seen[self.current_epoch] |= fingerprints(batch)
            loss = loss_of(self.model, batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-4)

    trainer = lightning.Trainer(
        max_epochs=NUM_EPOCHS,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=out,
    )
    trainer.fit(Module(), open_loader(dataset))
    return seen


def by_accelerate(dataset: KineticsAVT, out: Path) -> Seen:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = torch.nn.Linear(80, 1)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), 1e-4), open_loader(dataset)
    )
    seen: Seen = [{} for _ in range(NUM_EPOCHS)]
    for epoch in range(NUM_EPOCHS):
        if epoch == NUM_EPOCHS - 1:
            dataset.set_epoch(epoch)
        for batch in loader:
            seen[epoch] |= fingerprints(batch)
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
    accelerator.end_training()
    return seen


LOOPS = {"lightning": by_lightning, "accelerate": by_accelerate}


def main() -> None:
    loop, manifest, clips, out = sys.argv[1:]
    seen = LOOPS[loop](open_dataset(manifest, clips), Path(out))
    (Path(out) / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
