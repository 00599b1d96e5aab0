"""Samples that need no files. Imports little: processes that are started afresh import it too."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from k700_text import Sample


class Made(Dataset[Sample]):
    """Samples that tell which address they are of."""

    num_frames = 3

    def __len__(self) -> int:
        return 12

    def __getitem__(self, address: int | tuple[int, int]) -> Sample:
        epoch, index = address if isinstance(address, tuple) else (0, address)
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        return Sample(
            video=torch.randint(0, 256, (self.num_frames, 12, 8), generator=generator, dtype=torch.uint8),
            log_mel=torch.randn(5, 6, generator=generator),
            token_ids=torch.randint(0, 9, (7,), generator=generator),
            text_mask=torch.rand(7, generator=generator) > 0.5,
            has_video=True,
            has_audio=index % 2 == 0,
            has_text=index % 3 == 0,
            clip_id=f"clip {epoch} {index}",
            label=None if index % 2 else "yoga",
        )
