"""What a device can do at most, and the share of it that training uses (MFU).

The table holds what makers state for dense matrices, in TFLOP/s: bfloat16 with float32 accumulation on tensor cores,
and float32 outside them, since TF32 stays off. A device that is not in it has no MFU: a figure of another one would be
a guess. ``--run.peak-tflops`` gives the figure where the table has none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from lava_model.config import Precision, PretrainConfig
from lava_model.describe import train_flops


class Peak(NamedTuple):
    """Most that a device can do, TFLOP/s; None where it has no such units."""

    bf16: float | None
    fp32: float


PEAKS: dict[str, Peak] = {
    # Data sheets of A100, A30, A40, A10 and RTX A6000; GA102 white paper for RTX 3090.
    "A100": Peak(312, 19.5),
    "A30": Peak(165, 10.3),
    "A40": Peak(149.7, 37.4),
    "A10": Peak(125, 31.2),
    "RTX A6000": Peak(154.8, 38.7),
    "RTX 3090": Peak(71, 35.6),
    # Data sheets of H100 and H200; half of what they state with sparsity.
    "H100": Peak(989.4, 66.9),
    "H100 PCIe": Peak(756, 51.2),
    "H100 NVL": Peak(835.5, 60),
    "H200": Peak(989.4, 66.9),
    "H200 NVL": Peak(835.5, 60),
    # Data sheets of L4, L40S and RTX 6000 Ada; Ada white paper for RTX 4090.
    "L4": Peak(121, 30.3),
    "L40S": Peak(362, 91.6),
    "RTX 6000 Ada Generation": Peak(364.2, 91.1),
    "RTX 4090": Peak(165.2, 82.6),
    # Data sheet of HGX B200, an eighth of the board; RTX Blackwell white paper for RTX 5090.
    "B200": Peak(2250, 75),
    "RTX 5090": Peak(209.5, 104.8),
    # Before bfloat16. Titan X: 2 x cores x boost clock (3584 x 1.531 GHz; 3072 x 1.075 GHz).
    "V100": Peak(None, 15.7),
    "V100 PCIe": Peak(None, 14.0),
    "T4": Peak(None, 8.1),
    "TITAN X Pascal": Peak(None, 11.0),
    "GTX TITAN X": Peak(None, 6.6),
}
"""By the words of the name that torch reports, without maker and memory; ``H100`` alone is the SXM module."""

_MAKERS = {"nvidia", "tesla", "geforce"}
_SAY_NOTHING = re.compile(r"sxm\d?|pcie|hbm\de?|\d+gb")
"""Words of a name that leave it the same device: the socket and the memory."""


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Returns True where training runs under bf16 autocast."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def peak_tflops(device: torch.device, precision: Precision, override: float | None = None) -> float | None:
    """Returns the most that a device can do in the precision used, TFLOP/s; None where it is not known.

    Args:
        device: any; of a CPU nothing is known.
        precision: of the run.
        override: what to return instead of looking.
    """
    if override is not None:
        return override
    if device.type != "cuda":
        return None
    peak = peak_of(torch.cuda.get_device_name(device))
    if peak is None:
        return None
    return peak.bf16 if uses_bf16(precision, device) else peak.fp32


def peak_of(name: str) -> Peak | None:
    """Returns the peak of a device name; None for a device not in the table, or a part of one (MIG, vGPU).

    The entry with the most words wins, and the name may say no more than memory and socket beyond it: an ``RTX 4090 D``
    is no ``RTX 4090``, an ``A10G`` no ``A10``.
    """
    words = _words(name) - _MAKERS
    fitting = [
        entry
        for entry in PEAKS
        if _words(entry) <= words and all(_SAY_NOTHING.fullmatch(word) for word in words - _words(entry))
    ]
    return PEAKS[max(fitting, key=lambda entry: len(_words(entry)))] if fitting else None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[\w.]+", name.lower()))


def mfu(samples_per_second: float, config: PretrainConfig, device: torch.device, world_size: int) -> float | None:
    """Returns the share of the devices' peak that useful work takes, percent; None where the peak is not known.

    Useful work is what ``describe.train_flops`` counts for a sample: the trunk forward, the transformers forward and
    backward. The second forward pass that ``micro_batch`` costs is not useful work: it lowers the MFU.

    Args:
        samples_per_second: of all ranks together.
        config: of the run.
        device: of this rank; the others have the same.
        world_size: number of ranks.
    """
    peak = peak_tflops(device, config.run.precision, config.run.peak_tflops)
    if peak is None:
        return None
    return 100 * samples_per_second * train_flops(config.model) / (world_size * peak * 1e12)


def memory_bytes(device: str) -> int | None:
    """Returns the memory of the GPU that ``--run.device`` means, bytes; None where it means a CPU or there is none."""
    if device == "cpu" or not torch.cuda.is_available():
        return None
    index = torch.device("cuda" if device == "auto" else device).index
    return int(torch.cuda.get_device_properties(index or 0).total_memory)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Returns the most memory that tensors took on a device so far, bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
