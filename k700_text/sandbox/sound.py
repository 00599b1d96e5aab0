"""The sound of a generated clip: melody and timbre follow the class, the beat its tempo, the register its place.

Key, loudness, panning and noise are drawn at random.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from k700_text.sandbox.scene import Action, Place, Scene, seeded

SAMPLE_RATE = 44_100
_REGISTER_HZ = {Place.LOW: 196.0, Place.HIGH: 784.0}
_PENTATONIC = np.array([0, 2, 4, 7, 9, 12])

Samples = npt.NDArray[np.float64]


def synthesise(
    scene: Scene, *, seed: int, youtube_id: str, start_seconds: float, duration_seconds: float, num_channels: int
) -> npt.NDArray[np.float32]:
    """Returns the sound of a clip: float32 (num_channels, N) in [-1, 1] at SAMPLE_RATE.

    Args:
        scene: what the video shows.
        seed: the world's seed.
        youtube_id: the video; clips of one video share key, loudness and noise.
        start_seconds: start of the clip in the video.
        duration_seconds: length of the clip.
        num_channels: 1 or 2.
    """
    rng = seeded("sound", seed, youtube_id)
    key_hz = _REGISTER_HZ[scene.place] * 2 ** (rng.uniform(-3, 3) / 12)
    phase, loudness_dbfs, noise_db = rng.random(), rng.uniform(-26, -12), rng.uniform(-35, -15)
    pan = rng.uniform(0.3, 0.7)
    generator = np.random.default_rng(rng.getrandbits(32))
    time = start_seconds + np.arange(round(duration_seconds * SAMPLE_RATE)) / SAMPLE_RATE
    cycles = time / scene.tempo.period_seconds + phase
    voice = _voice(scene.action, key_hz, cycles, generator)
    voice /= np.sqrt(np.mean(voice**2)) + 1e-9
    mixed = voice + 10 ** (noise_db / 20) * generator.standard_normal(len(time))
    mixed *= 10 ** (loudness_dbfs / 20)
    gains = np.array([[1.0]]) if num_channels == 1 else math.sqrt(2) * np.array([[1 - pan], [pan]])
    return np.clip(gains * mixed, -1, 1).astype(np.float32)


def _voice(action: Action, key_hz: float, cycles: Samples, generator: np.random.Generator) -> Samples:
    """Returns the voice of a class; ``cycles`` counts the beats."""
    beat = cycles % 1
    match action:
        case Action.SLIDING:  # a slide whistle
            return _tone(key_hz * 2 ** (0.5 * np.sin(2 * np.pi * cycles)), (1.0, 0.2))
        case Action.BOUNCING:  # a plucked string on every beat
            return np.exp(-7 * beat) * _tone(np.full_like(cycles, key_hz), (1.0, 0.7, 0.5, 0.35, 0.25))
        case Action.CIRCLING:  # a tremolo of odd harmonics
            return (0.55 + 0.45 * np.sin(2 * np.pi * cycles)) * _tone(np.full_like(cycles, key_hz), (1, 0, 0.5, 0, 0.4))
        case Action.STANDING:  # a steady drone with a soft tick
            drone = _tone(np.full_like(cycles, key_hz), (1.0, 0.4)) + _tone(np.full_like(cycles, 1.5 * key_hz), (0.7,))
            return drone * (1 + 0.8 * np.exp(-60 * beat))
        case Action.PULSING:  # a chord that swells and breaks off
            chord = sum(_tone(np.full_like(cycles, key_hz * ratio), (1.0,)) for ratio in (1.0, 1.26, 1.5))
            return np.asarray(beat**2 * chord)
        case Action.CROSSING:  # a chirp that rises an octave
            return _tone(key_hz * 2.0**beat, (1.0, 0.5, 0.3))
        case Action.BLINKING:  # beeps
            return np.where(beat < 0.5, 1.0, 0.0) * _tone(np.full_like(cycles, 2 * key_hz), (1.0,))
        case Action.HOPPING:  # random notes, two a beat
            steps = np.floor(2 * cycles).astype(int)
            notes = generator.integers(0, len(_PENTATONIC), int(steps.max() - steps.min()) + 1)
            pitch = key_hz * 2 ** (_PENTATONIC[notes[steps - steps.min()]] / 12)
            return np.exp(-2.5 * ((2 * cycles) % 1)) * _tone(pitch, (1.0, 0.0, 0.35))
        case Action.FIGURE_EIGHT:  # a siren of two notes
            return _tone(np.where(beat < 0.5, key_hz, 1.5 * key_hz), (1.0, 0.6, 0.4))
        case Action.SPIRALLING:  # gusts of coloured noise
            return beat * _smooth(generator.standard_normal(len(cycles))) * _tone(np.full_like(cycles, key_hz), (1.0,))


def _tone(pitch_hz: Samples, harmonics: tuple[float, ...]) -> Samples:
    turns = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    voices = (level * np.sin(number * turns) for number, level in enumerate(harmonics, 1) if level)
    return np.asarray(sum(voices))


def _smooth(noise: Samples, length: int = 220) -> Samples:
    """Returns the moving average over ``length`` samples."""
    total = np.cumsum(np.concatenate((np.zeros(length), noise)))
    return (total[length:] - total[:-length]) / math.sqrt(length)
