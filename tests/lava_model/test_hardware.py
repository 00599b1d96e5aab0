"""Peaks by device name, and the share of them that training uses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lava_model.config import LavaConfig, RunConfig
from lava_model.describe import train_flops
from lava_model.hardware import PEAKS, mfu, peak_memory_bytes, peak_of, peak_tflops
from lava_model.presets import preset

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756, 51.2),
        ("NVIDIA H100 NVL", 835.5, 60),
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA B200", 2250, 75),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA A10", 125, 31.2),
        ("NVIDIA RTX A6000", 154.8, 38.7),
        ("NVIDIA GeForce RTX 3090", 71, 35.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 5090", 209.5, 104.8),
        ("Tesla V100-SXM2-32GB", None, 15.7),
        ("Tesla V100-PCIE-16GB", None, 14.0),
        ("Tesla T4", None, 8.1),
        ("NVIDIA TITAN X (Pascal)", None, 11.0),
        ("GeForce GTX TITAN X", None, 6.6),
    ],
)
def test_devices_are_known_by_the_name_that_torch_reports(monkeypatch, name, bf16, fp32):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(CUDA, "bf16") == peak_tflops(CUDA, "auto") == bf16
    assert peak_tflops(CUDA, "fp32") == fp32
    assert peak_tflops(CUDA, "fp32", 123.0) == 123.0


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H200 MIG 3g.71gb",
        "GRID A100-10C",
        "NVIDIA H100X",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "Tesla V100S-PCIE-32GB",
        "Quadro RTX 6000",
        "AMD Instinct MI300X",
        "NVIDIA",
        "",
    ],
)
def test_a_device_that_is_not_in_the_table_is_not_taken_for_another(name):
    assert peak_of(name) is None


def test_every_entry_is_found_by_its_own_name():
    assert {name: peak_of(f"NVIDIA {name}") for name in PEAKS} == PEAKS


def test_nothing_is_known_of_a_cpu():
    config = preset("paper")
    assert peak_tflops(torch.device("cpu"), "fp32") is None
    assert mfu(100.0, config, torch.device("cpu"), 1) is None
    assert peak_memory_bytes(torch.device("cpu")) is None


def test_mfu_is_useful_work_over_the_peak():
    # Model-notes 5.3: 703 samples/s of 449 GFLOP are 40 % of 790 TFLOP/s.
    config = replace(preset("paper"), model=LavaConfig(audio_patch_frames=1), run=RunConfig(peak_tflops=790))
    assert mfu(703, config, torch.device("cpu"), 1) == pytest.approx(40, rel=0.01)
    assert mfu(703, config, torch.device("cpu"), 4) == pytest.approx(10, rel=0.01)
    assert mfu(1e12, config, torch.device("cpu"), 1) == pytest.approx(100 * train_flops(config.model) / 790)


def test_the_second_forward_pass_of_a_micro_batch_is_no_useful_work():
    config = replace(preset("paper"), run=RunConfig(peak_tflops=790))
    cached = replace(config, data=replace(config.data, micro_batch=8))
    assert mfu(100, cached, CUDA, 1) == mfu(100, config, CUDA, 1)
