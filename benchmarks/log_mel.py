"""Our log-mel in numpy and torchaudio's on the same windows: how far apart they are, and what each takes.

Windows of 2.56 s at 16 kHz as a sample has them: the first one of each real sound file, and made ones (noise, a sweep,
clicks, a faint tone). Both give the natural log of mel power and floor, float32 (80, 256). They are held against each
other and each against the formula in float64, since a difference does not tell who is nearer. CPU time on one core,
both in turn on the same window, medians over rounds.

Expected before measuring: the same but for rounding, which the log makes large where a band holds little beside loud
others; torch's FFT is no slower than numpy's, so that about the same time is left.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from loading.timing import milliseconds_in_turn, ratio, use_one_core

from k700_text.config import AudioConfig
from k700_text.errors import K700TextError
from k700_text.media.decode import ClipReader
from k700_text.media.log_mel import log_mel

AUDIO = AudioConfig()
FOLDERS = ("audio-labelled/esc10", "audio-labelled/fsdd", "videos-samples", "videos-odd", "videos-labelled/fight-surv")
SUFFIXES = {".ogg", ".wav", ".mp4", ".avi", ".mkv", ".mpg", ".webm", ".mov"}
FILES_OF_A_FOLDER, ROUNDS = 40, 7

Sound = npt.NDArray[np.float32]


def real_windows(data: Path) -> Iterator[Sound]:
    """Yields the first window of each file, evenly chosen from each folder, that has sound."""
    for folder in FOLDERS:
        files = sorted(path for path in (data / folder).rglob("*") if path.suffix.lower() in SUFFIXES)
        for path in files[:: max(1, len(files) // FILES_OF_A_FOLDER)]:
            try:
                with ClipReader(path) as reader:
                    if not reader.has_audio:
                        continue
                    sound = reader.read_audio(0.0, AUDIO.window_seconds, AUDIO.sample_rate)
            except K700TextError:
                continue
            if np.any(sound):
                yield sound


def made_windows() -> Iterator[Sound]:
    """Yields sounds of known kinds."""
    time = np.arange(round(AUDIO.window_seconds * AUDIO.sample_rate)) / AUDIO.sample_rate
    rng = np.random.default_rng(0)
    for level in (0.3, 0.01):
        yield (level * rng.standard_normal(len(time))).astype(np.float32)
        yield (level * np.sin(2 * np.pi * (100 + 900 * time) * time)).astype(np.float32)
        yield (level * (rng.random(len(time)) < 0.0005)).astype(np.float32)
    yield (1e-4 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def torchaudio_way() -> Callable[[Sound], npt.NDArray[np.float32]]:
    """Returns torchaudio's transform with our settings, from numpy to numpy as ours."""
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=AUDIO.sample_rate,
        n_fft=AUDIO.fft_size,
        win_length=AUDIO.window_length,
        hop_length=AUDIO.hop_length,
        n_mels=AUDIO.num_mels,
        mel_scale="htk",
    )

    def make(sound: Sound) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            power = transform(torch.from_numpy(sound))[:, : AUDIO.num_mel_frames]
            found: npt.NDArray[np.float32] = (power + AUDIO.log_floor).log().numpy()
        return found

    return make


def in_float64(sound: Sound) -> npt.NDArray[np.float64]:
    """Returns the formula without rounding to speak of: window, corners and products in float64."""
    half, size, length = AUDIO.fft_size // 2, AUDIO.fft_size, AUDIO.window_length
    padded = np.pad(sound.astype(np.float64), half, mode="reflect")
    window = np.zeros(size)
    before = (size - length) // 2
    window[before : before + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, size)[:: AUDIO.hop_length][: AUDIO.num_mel_frames]
    power = np.abs(np.fft.rfft(pieces * window)) ** 2
    mels = np.linspace(0, 2595 * math.log10(1 + AUDIO.sample_rate / 1400), AUDIO.num_mels + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    bins = np.linspace(0, AUDIO.sample_rate / 2, half + 1)[:, None]
    rising, falling = (bins - corners[:-2]) / np.diff(corners)[:-1], (corners[2:] - bins) / np.diff(corners)[1:]
    return np.log((power @ np.clip(np.minimum(rising, falling), 0, None)).T + AUDIO.log_floor)


def differences(windows: list[Sound], theirs: Callable[[Sound], Sound]) -> dict[str, float]:
    """Returns the largest differences over all values of all windows, and the share of values that hardly differ."""
    triples = [(log_mel(sound, AUDIO), theirs(sound), in_float64(sound)) for sound in windows]
    apart = np.concatenate([np.abs(ours - other).ravel() for ours, other, _ in triples])
    return {
        "ours_and_torchaudio": float(apart.max()),
        "ours_and_float64": max(float(np.abs(ours - exact).max()) for ours, _, exact in triples),
        "torchaudio_and_float64": max(float(np.abs(other - exact).max()) for _, other, exact in triples),
        "share_below_1e-5": float((apart < 1e-5).mean()),
        "share_below_1e-4": float((apart < 1e-4).mean()),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real files; none: made sounds only")
    parser.add_argument("--json", action="store_true", help="print one line of JSON as well")
    asked = parser.parse_args()
    theirs = torchaudio_way()
    kinds = {"real": list(real_windows(asked.data)), "made": list(made_windows())}
    answer: dict[str, Any] = {}
    for kind, windows in kinds.items():
        if not windows:
            print(f"{kind}: none at {asked.data}")
            continue
        with use_one_core():
            contenders = {"torchaudio": theirs, "ours": lambda sound: log_mel(sound, AUDIO)}
            times = milliseconds_in_turn(contenders, [windows[:60]] * ROUNDS)
        found = differences(windows, theirs)
        answer[kind] = {
            "num_windows": len(windows),
            **found,
            "cpu_ms": times,
            "ratio": ratio(times, "torchaudio", "ours"),
        }
        print(f"\n{kind}: {len(windows)} windows")
        print(f"  largest difference    ours and torchaudio {found['ours_and_torchaudio']:.1e}")
        print(f"                        ours and float64 {found['ours_and_float64']:.1e}")
        print(f"                        torchaudio and float64 {found['torchaudio_and_float64']:.1e}")
        print(f"  apart by less than    1e-5: {found['share_below_1e-5']:.2%}, 1e-4: {found['share_below_1e-4']:.3%}")
        print(f"  CPU ms a window       ours {times['ours']:.2f}, torchaudio {times['torchaudio']:.2f}")
        print(f"  torchaudio / ours     {answer[kind]['ratio']:.2f}")
    if asked.json:
        print(json.dumps({"benchmark": "log_mel", **answer}))


if __name__ == "__main__":
    main()
