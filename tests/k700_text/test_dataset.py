from __future__ import annotations

import csv
import gc
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Subset

from k700_text import Batch, KineticsAVT, Sample, collate
from k700_text.config import AudioConfig, TextConfig, VideoConfig
from k700_text.data.reader import SampleReader
from k700_text.data.sampler import StepSampler
from k700_text.data.text import TitleTokenizer, train_tokenizer
from k700_text.errors import (
    ConfigError,
    DecodeError,
    ManifestError,
    SchemaMismatchError,
    StorageError,
    TokenizerError,
    UsageError,
)
from k700_text.media.decode import ClipReader, packets_of
from k700_text.media.encode import encode_clip
from k700_text.media.log_mel import log_mel
from k700_text.media.packet_index import PacketRow, write_packet_index
from k700_text.media.prepare import PrepareRun, run_plan
from k700_text.media.shards import INDEX_FILE, PreparedSettings, ShardIndex, write_index
from tests.k700_text.media_files import (
    FIGHT,
    SAMPLES,
    clip_id_of,
    frame_number,
    make_clip,
    needs_samples,
    tone,
    write_manifest,
)

SMALL = VideoConfig(size=32, short_side=36)


def spoil(source: Path, target: Path, kind: str) -> None:
    """Copies a clip, with the packets of one kind of stream replaced by noise."""
    rng = np.random.default_rng(0)
    with av.open(str(source)) as old, av.open(str(target), "w", format="matroska") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            is_spoiled = packet.stream.type == kind
            written = av.Packet(rng.bytes(packet.size)) if is_spoiled else packet
            written.stream = streams[packet.stream.index]
            written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
            new.mux(written)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    make_clip(root / f"{clip_id_of(0)}.mp4", 2.2)
    make_clip(root / "some label" / f"{clip_id_of(1)}_x.mp4", 1.0, audio=None, width=48, height=64)
    make_clip(root / f"{clip_id_of(2)}.mp4", 2.0, audio=np.zeros(88_200, dtype=np.float32))
    (root / f"{clip_id_of(3)}.mp4").write_bytes(b"not a film" * 100)
    spoil(root / f"{clip_id_of(0)}.mp4", root / f"{clip_id_of(4)}.mkv", "video")
    spoil(root / f"{clip_id_of(0)}.mp4", root / f"{clip_id_of(5)}.mkv", "audio")
    return root


ROWS: list[dict[str, Any]] = [
    {"clip_id": clip_id_of(0), "label": "riding a bike", "title": "Café on a bike"},
    {"clip_id": clip_id_of(1), "label": "riding a bike", "title": None},
    {"clip_id": clip_id_of(2), "label": "juggling (balls)", "title": "  "},
    {"clip_id": clip_id_of(3), "title": "bad file"},
    {"clip_id": clip_id_of(4), "title": "bad video"},
    {"clip_id": clip_id_of(5), "title": "bad audio"},
    {"clip_id": clip_id_of(6), "title": "no file"},
    {"clip_id": clip_id_of(0)[:-6] + "000020", "split": "val", "has_video": False},
]


@pytest.fixture(scope="module")
def manifest(clips: Path) -> Path:
    return write_manifest(clips / "manifest.parquet", ROWS)


@pytest.fixture(scope="module")
def tokenizer(clips: Path) -> Path:
    return train_tokenizer(["Café on a bike", "bad file"], clips / "tokenizer.json", 300).path


def make(manifest: Path, clips: Path, **options: Any) -> KineticsAVT:
    return KineticsAVT(manifest, clips, **{"video": SMALL, "train": False, **options})


def flags(sample: Sample) -> tuple[bool, bool, bool]:
    return sample.has_video, sample.has_audio, sample.has_text


def same(one: Sample | Batch, other: Sample | Batch) -> bool:
    names = ("video", "log_mel", "token_ids", "text_mask")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names) and one.clip_id == other.clip_id


def test_a_sample_is_what_the_manifest_and_the_file_say(manifest: Path, clips: Path, tokenizer: Path) -> None:
    dataset = KineticsAVT(manifest, clips, split="train", tokenizer=tokenizer, train=False)
    sample = dataset[0]
    assert sample.video.shape == (16, 224, 224, 3) and sample.video.dtype == torch.uint8
    assert sample.log_mel.shape == (80, 256) and sample.log_mel.dtype == torch.float32
    assert sample.token_ids.shape == (128,) and int(sample.text_mask.sum()) > 3
    assert flags(sample) == (True, True, True)
    assert (sample.clip_id, sample.label) == (clip_id_of(0), "riding a bike")
    # 2.2 s hold a window of 1.6 s; its middle view starts at 0.3 s, and frames are 0.04 s long.
    assert [frame_number(frame) for frame in sample.video.numpy()] == [
        int((0.3 + index / 10) * 25 + 1e-6) for index in range(16)
    ]


def test_the_audio_window_lies_around_the_video_window(manifest: Path, clips: Path) -> None:
    with ClipReader(clips / f"{clip_id_of(0)}.mp4") as reader:
        heard = reader.read_audio(0.3 + 0.8 - 1.28, 2.56, 16_000)
        whole = reader.read_audio(0.0, reader.info.audio_duration_seconds or 0.0, 16_000)
    # Another order of reading leaves the AAC decoder in another state: some bits differ where it is silent.
    aligned = make(manifest, clips)[0].log_mel
    assert np.abs(aligned.numpy() - log_mel(heard, AudioConfig())).mean() < 0.01
    spread = make(manifest, clips, audio=AudioConfig(window="clip"))[0].log_mel
    assert np.abs(spread.numpy() - log_mel(whole, AudioConfig())).mean() < 0.01
    assert (spread - aligned).abs().mean() > 0.1


def test_absence_is_a_flag_with_zeros(manifest: Path, clips: Path, tokenizer: Path) -> None:
    dataset = make(manifest, clips, tokenizer=tokenizer)
    assert [flags(dataset[index]) for index in range(len(dataset))] == [
        (True, True, True),
        (True, False, False),
        (True, False, False),
        (False, False, True),
        (False, True, True),
        (True, False, True),
    ]
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.has_video or not sample.video.any()
        assert sample.has_audio or not sample.log_mel.any()
        assert sample.has_text or not (sample.token_ids.any() or sample.text_mask.any())
    assert set(dataset.failures) == {clip_id_of(3), clip_id_of(4), clip_id_of(5)}
    assert "no media file" in dataset.failures[clip_id_of(3)]


def test_rows_that_lack_what_is_required_are_counted(manifest: Path, clips: Path, tokenizer: Path) -> None:
    dataset = make(manifest, clips)
    assert dataset.clip_ids == [clip_id_of(number) for number in range(6)]
    assert dataset.labels[:4] == ["riding a bike", "riding a bike", "juggling (balls)", None]
    assert dataset.dropped == {"without a clip file": 2} and dataset.num_dropped == 2
    with_text = make(manifest, clips, tokenizer=tokenizer, require=("video", "text"), split="train")
    assert with_text.dropped == {"without a clip file": 1, "without a title": 1}
    everything = make(manifest, clips, require=())
    assert len(everything) == len(ROWS) and everything.num_dropped == 0
    assert flags(everything[6]) == (False, False, False) and everything.failures == {}


def test_flags_of_the_manifest_spare_the_decoding(tmp_path: Path, clips: Path) -> None:
    rows = [{**ROWS[0], "has_audio": False, "has_video": True}, {**ROWS[5], "has_audio": None, "has_video": False}]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    assert flags(make(manifest, clips)[0]) == (True, False, False)
    dataset = make(manifest, clips, require=("audio",))
    assert dataset.clip_ids == [clip_id_of(5)] and dataset.dropped == {"known to have no audio": 1}
    with pytest.raises(
        ManifestError, match=r"no clip to serve from .*: 1 known to have no video, 1 known to have no audio"
    ):
        make(manifest, clips, require=("video", "audio"))


def test_several_manifests_splits_and_mappings(manifest: Path, clips: Path, tmp_path: Path) -> None:
    second = write_manifest(tmp_path / "m.parquet", [{"clip_id": clip_id_of(9), "split": "val"}])
    mapping = {clip_id_of(9): clips / f"{clip_id_of(0)}.mp4"}
    dataset = KineticsAVT([manifest, second], mapping, split="validate", train=False, video=SMALL)
    assert dataset.clip_ids == [clip_id_of(9)] and dataset[0].has_video
    assert dataset[-1].clip_id == clip_id_of(9)
    with pytest.raises(IndexError):
        dataset[1]
    with pytest.raises(ManifestError, match="no row of split test"):
        make(manifest, clips, split="test")


def test_training_is_random_by_epoch_and_repeats_by_seed(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips, train=True, seed=5)
    assert same(dataset[(3, 0)], dataset[(3, 0)])
    assert not same(dataset[(3, 0)], dataset[(4, 0)])
    dataset.set_epoch(3)
    assert same(dataset[0], dataset[(3, 0)])
    assert same(make(manifest, clips, train=True, seed=5)[(3, 0)], dataset[(3, 0)])
    assert not same(make(manifest, clips, train=True, seed=6)[(3, 0)], dataset[(3, 0)])
    starts = {frame_number(dataset[(epoch, 0)].video[0].numpy()) for epoch in range(12)}
    assert len(starts) > 4 and starts <= set(range(16))


def test_views_cover_the_clip(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips, num_views=3)
    assert len(dataset) == 18
    samples = [dataset[index] for index in range(4)]
    assert [frame_number(sample.video[0].numpy()) for sample in samples[:3]] == [0, 7, 15]
    assert [sample.clip_id for sample in samples] == [clip_id_of(0)] * 3 + [clip_id_of(1)]
    assert same(samples[1], make(manifest, clips)[0])


def test_views_are_windows_times_squares(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips, num_views=2, num_spatial_views=3)
    assert len(dataset) == 36 and dataset.num_clips == 6
    samples = [dataset[index] for index in range(7)]
    assert [frame_number(sample.video[0].numpy()) for sample in samples[:6]] == [0, 0, 0, 15, 15, 15]
    assert [sample.clip_id for sample in samples] == [clip_id_of(0)] * 6 + [clip_id_of(1)]
    assert same(samples[4], make(manifest, clips, num_views=2)[1])
    assert dataset.clip_ids == make(manifest, clips).clip_ids


def test_squares_lie_along_the_longer_side(tmp_path: Path) -> None:
    # Gray grows to the right, so that a square tells by its mean where it is.
    frames = [np.broadcast_to(np.linspace(20, 220, 128, dtype=np.uint8)[:, None], (48, 128, 3))] * 25
    encode_clip(tmp_path / f"{clip_id_of(0)}.mp4", frames, frame_rate=25.0, audio=None, crf=10)
    manifest = write_manifest(tmp_path / "m.parquet", ROWS[:1])
    left, centre, right = (sample.video.float().mean() for sample in make(manifest, tmp_path, num_spatial_views=3))
    assert left < centre - 40 and centre < right - 40 and centre == pytest.approx(120, abs=4)


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p"])
def test_the_pixel_format_is_that_of_the_settings(manifest: Path, clips: Path, pixel_format: str) -> None:
    video = VideoConfig(size=32, short_side=36, pixel_format=pixel_format)
    dataset = make(manifest, clips, video=video, require=())
    shape = (16, 32, 32, 3) if pixel_format == "rgb24" else (16, 48, 32)
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert batch.video.shape == (8, *shape) and batch.pixel_format == dataset.video.pixel_format == pixel_format
    assert batch.has_video.tolist() == [True, True, True, False, False, True, False, False]
    assert not batch.video[~batch.has_video].any()
    gray = dataset[0].video.numpy()
    if pixel_format == "yuv420p":
        # Gray in limited range: its number is in the luma, its colours are nothing.
        assert [round(((frame[:32].mean() - 16) * 255 / 219 - 8) / 4) for frame in gray[:4]] == [7, 10, 12, 15]
        assert np.abs(gray[:, 32:].astype(int) - 128).max() <= 2
    else:
        assert [frame_number(frame) for frame in gray[:4]] == [7, 10, 12, 15]


def negative(sample: Sample, rng: np.random.Generator | None) -> Sample:
    """A transform, at the module's top so that it can be pickled."""
    noise = 0 if rng is None else int(rng.integers(1, 100))
    return replace(sample, video=255 - sample.video, label=f"{sample.label} {noise}")


def test_a_transform_gets_the_sample_and_its_generator(manifest: Path, clips: Path) -> None:
    plain, changed = make(manifest, clips)[0], make(manifest, clips, transform=negative)[0]
    assert torch.equal(changed.video, 255 - plain.video) and changed.label == "riding a bike 0"
    training = make(manifest, clips, train=True, transform=negative)
    labels = [training[(epoch, 0)].label for epoch in (0, 0, 1, 2)]
    assert labels[0] == labels[1] and len(set(labels)) == 3 and "riding a bike 0" not in labels
    loader = DataLoader(training, batch_sampler=StepSampler(6, 2, num_steps=2), collate_fn=collate, num_workers=1)
    here = [training[address] for batch in StepSampler(6, 2, num_steps=2) for address in batch]
    assert [label for batch in loader for label in batch.label] == [sample.label for sample in here]


def test_any_whole_number_is_an_index(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips)
    for index in (np.int64(1), torch.tensor(1), (np.int32(0), torch.tensor(1)), 1 - len(dataset)):
        assert dataset[index].clip_id == dataset[1].clip_id  # type: ignore[index]  # what samplers of others give
    for index in (True, dataset.clip_ids.index(clip_id_of(1)), slice(1, 2)):
        found = dataset[index]
        assert (found[0] if isinstance(found, Subset) else found).clip_id == dataset[1].clip_id


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        ("1", TypeError, r"an index is a whole number, \(epoch, number\) or a slice, got str '1': for several"),
        (1.0, TypeError, "got float 1.0"),
        (None, TypeError, "got NoneType None"),
        ([0, 1], TypeError, r"got list \[0, 1\]: for several clips take torch.utils.data.Subset"),
        (np.arange(4), TypeError, "got ndarray"),
        (torch.zeros(2, 3), TypeError, "got Tensor"),
        ((1, 2, 3), TypeError, r"got tuple \(1, 2, 3\)"),
        ((), TypeError, r"got tuple \(\)"),
        (("a", 1), TypeError, "got tuple"),
        ((0, slice(2)), TypeError, "got tuple"),
        ((-1, 0), ValueError, r"the epoch of index \(-1, 0\) must not be negative"),
        (6, IndexError, r"index 6 is outside 0\.\.5"),
        (-7, IndexError, r"index -7 is outside 0\.\.5"),
        ((2, 6), IndexError, r"index 6 is outside 0\.\.5"),
    ],
)
def test_an_index_that_is_none_is_one_clear_line(
    manifest: Path, clips: Path, index: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        make(manifest, clips, train=True)[index]
    assert "\n" not in str(caught.value)


def test_a_slice_is_the_subset_of_its_samples(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips)
    some = dataset[4:0:-2]
    assert isinstance(some, Subset) and len(some) == 2
    assert [sample.clip_id for sample in some] == [clip_id_of(4), clip_id_of(2)]
    assert len(dataset[10:]) == 0 and len(dataset[:]) == len(dataset)
    assert collate(dataset[0:2]).clip_id == (clip_id_of(0), clip_id_of(1))


def test_classes_are_named_as_torchvision_names_them(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips)
    assert dataset.classes == ["juggling (balls)", "riding a bike"]
    assert dataset.class_to_idx == {"juggling (balls)": 0, "riding a bike": 1}
    assert pickle.loads(pickle.dumps(dataset)).class_to_idx is not dataset.class_to_idx
    assert {label for label in dataset.labels if label is not None} == set(dataset.classes)
    unlabelled = make(manifest, {clip_id_of(3): clips / f"{clip_id_of(3)}.mp4"})
    assert unlabelled.classes == [] and unlabelled.class_to_idx == {}


def test_the_repr_says_what_is_served(manifest: Path, clips: Path, tokenizer: Path) -> None:
    assert repr(make(manifest, clips, tokenizer=tokenizer, train=True, seed=4)) == (
        f"KineticsAVT(6 clips (6 video, 6 audio, 4 text) from {manifest} with {clips} (files named after their"
        " clip_id); training cuts, seed 4, 2 left out (without a clip file))"
    )
    assert repr(make(manifest, clips, require=(), num_views=2)).startswith(
        "KineticsAVT(8 clips in 16 views (7 video, 8 audio, 0 text) from"
    )


def test_a_tokenizer_may_be_an_object(manifest: Path, clips: Path, tokenizer: Path) -> None:
    expected = make(manifest, clips, tokenizer=tokenizer)
    for given in (TitleTokenizer(tokenizer), Tokenizer.from_file(str(tokenizer))):
        dataset = make(manifest, clips, tokenizer=given)
        assert all(same(one, other) for one, other in zip(dataset[:3], expected[:3], strict=True))
        assert same(pickle.loads(pickle.dumps(dataset))[0], expected[0])
    with pytest.raises(TokenizerError, match=r"a file of k700-text tokenizer or a tokenizers.Tokenizer, got int 5"):
        make(manifest, clips, tokenizer=5)


def test_several_at_once_are_the_same(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips, train=True)
    dataset.set_epoch(4)
    together = dataset.__getitems__([(1, 2), 0, (0, 5)])
    assert all(same(one, dataset[index]) for one, index in zip(together, [(1, 2), 0, (0, 5)], strict=True))


def test_clips_that_change_after_the_start_are_failures(manifest: Path, clips: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    dataset = make(manifest, folder)
    (folder / f"{clip_id_of(0)}.mp4").unlink()
    path = folder / f"{clip_id_of(2)}.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    assert flags(dataset[0]) == flags(dataset[2]) == (False, False, False)
    assert "no such file" in dataset.failures[clip_id_of(0)] and clip_id_of(2) in dataset.failures[clip_id_of(2)]


def test_packet_tables_change_nothing_but_the_speed(manifest: Path, clips: Path, tmp_path: Path) -> None:
    index = tmp_path / "clips.packets"
    files = [path for path in sorted(clips.rglob("*.m??")) if "manifest" not in path.name]
    rows = []
    for path in files[:-1]:
        name, status = path.relative_to(clips).as_posix(), path.stat()
        rows.append(
            PacketRow(clip_file=name, file_bytes=status.st_size, mtime_ns=status.st_mtime_ns, packets=packets_of(path))
        )
    write_packet_index(index, rows)
    plain, indexed = (make(manifest, clips, train=True, packets=each) for each in (None, index))
    for number in range(len(plain)):
        one, other = plain[(2, number)], indexed[(2, number)]
        assert torch.equal(one.video, other.video) and flags(one) == flags(other)
        assert (one.log_mel - other.log_mel).abs().mean() < 0.01
    assert plain.failures.keys() == indexed.failures.keys() and not plain.plain_reads
    # Three are no H.264 in MP4, one is not in the index.
    assert sum(indexed.plain_reads.values()) >= 2 and "not in the packet index" in indexed.plain_reads
    assert len(pickle.dumps(indexed)) < 5000


@pytest.mark.parametrize(("context", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_workers_give_the_same_batches(
    manifest: Path, clips: Path, tokenizer: Path, context: str, num_workers: int
) -> None:
    dataset = make(manifest, clips, tokenizer=tokenizer, train=True)

    def batches(num_workers: int) -> list[Batch]:
        loader = DataLoader(
            dataset,
            batch_sampler=StepSampler(len(dataset), 2, seed=1, start_step=1, num_steps=4),
            collate_fn=collate,
            num_workers=num_workers,
            multiprocessing_context=context if num_workers else None,
        )
        return list(loader)

    alone, together = batches(0), batches(num_workers)
    assert len(alone) == 4 and all(same(one, other) for one, other in zip(alone, together, strict=True))
    assert all(torch.equal(one.has_audio, other.has_audio) for one, other in zip(alone, together, strict=True))
    assert set(dataset.failures) == {clip_id_of(3), clip_id_of(4), clip_id_of(5)}


def test_it_pickles_small_and_works_afterwards(manifest: Path, clips: Path, tokenizer: Path) -> None:
    dataset = make(manifest, clips, tokenizer=tokenizer)
    expected = dataset[0]
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 5000
    copy = pickle.loads(pickled)
    assert same(copy[0], expected)
    del dataset
    # The rows are kept beside the manifest; what is known of a mapping goes with the dataset.
    assert same(pickle.loads(pickled)[0], expected)
    brief = make(manifest, {clip_id_of(0): clips / f"{clip_id_of(0)}.mp4"})
    pickled, copy = pickle.dumps(brief), pickle.loads(pickle.dumps(brief))
    assert same(copy[0], make(manifest, clips)[0])
    del brief
    with pytest.raises(ManifestError, match="make it again"):
        pickle.loads(pickled)
    assert copy[0].has_video


def test_too_many_failures_stop_the_run_and_name_the_files(
    manifest: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(manifest, clips, max_failures=2)
    dataset[3], dataset[3], dataset[4]
    with pytest.raises(DecodeError, match=r"3 of 6 clips do not decode, max_failures is 2: .*video00003A.*") as caught:
        dataset[5]
    assert "\n" not in str(caught.value) and str(caught.value).count(".mkv") >= 2
    # A worker that raised is waited for this long when its loader is dropped.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    only_the_bad = Subset(make(manifest, clips, max_failures=0), [3])
    loader = DataLoader(only_the_bad, collate_fn=collate, num_workers=1)
    with pytest.raises(DecodeError, match="max_failures is 0"):
        list(loader)
    gc.collect()


def test_errors_can_be_raised_instead(manifest: Path, clips: Path) -> None:
    dataset = make(manifest, clips, on_error="raise")
    assert dataset[0].has_video
    for index in (3, 4, 5):
        with pytest.raises(DecodeError, match=clip_id_of(index)):
            dataset[index]


def test_a_file_of_sound_alone(tmp_path: Path, manifest: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44_100, layout="mono")
        samples = (tone(2.0) * 32_767).astype(np.int16)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 44_100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    mapping = {clip_id_of(0): path}
    dataset = KineticsAVT(manifest, mapping, train=False, video=SMALL)
    assert flags(dataset[0]) == (False, True, False) and "no video stream" in dataset.failures[clip_id_of(0)]
    dataset = KineticsAVT(manifest, mapping, train=False, video=SMALL, require=("audio",))
    assert flags(dataset[0]) == (False, True, False) and not dataset.failures


def test_the_reader_alone(clips: Path) -> None:
    reader = SampleReader(video=SMALL)
    sample = reader.read_strict(clips / f"{clip_id_of(0)}.mp4", clip_id="any", label="x")
    assert (sample.clip_id, sample.label, sample.has_text) == ("any", "x", False)
    for path in (clips / "absent.mp4", clips / f"{clip_id_of(3)}.mp4", clips / f"{clip_id_of(4)}.mkv"):
        with pytest.raises(DecodeError, match=str(path)):
            reader.read_strict(path, clip_id="any")
        sample, problems = reader.read(path, clip_id="any")
        assert not sample.has_video and len(problems) == 1


def test_a_clip_shorter_than_it_says_is_cut_from_what_there_is(clips: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mkv"
    spoil(clips / f"{clip_id_of(0)}.mp4", whole, "no such kind")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.9)])
    with ClipReader(cut) as clip:
        assert clip.video_seconds() > 2.1
    sample, problems = SampleReader(video=VideoConfig(size=32, short_side=36, num_frames=4)).read(
        cut, clip_id="cut", rng=_Latest()
    )
    numbers = [frame_number(frame) for frame in sample.video.numpy()]
    assert not problems and sample.has_video
    assert len(set(numbers)) == 4, "frozen pictures from behind the end"


class _Latest(np.random.Generator):
    """Always draws the last window."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size: Any = None, *rest: Any, **options: Any) -> Any:
        return np.full(size, 0.999)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"require": ("sound",)}, "require"),
        ({"require": "video"}, "require"),
        ({"require": ("text",)}, "give a tokenizer"),
        ({"seed": -1}, "seed"),
        ({"num_views": 2, "train": True}, "num_views"),
        ({"num_spatial_views": 3, "train": True}, "num_spatial_views"),
        ({"num_spatial_views": 0}, "num_spatial_views"),
        ({"max_failures": -1}, "max_failures"),
        ({"on_error": "ignore"}, "on_error"),
        ({"split": "every"}, "unknown split"),
    ],
)
def test_bad_arguments(manifest: Path, clips: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(manifest, clips, **options)


def test_bad_inputs_are_one_clear_line(manifest: Path, clips: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        make(manifest, tmp_path / "absent")
    with pytest.raises(ManifestError, match="no such file"):
        make(tmp_path / "absent.parquet", clips)
    with pytest.raises(ManifestError, match="8 without a clip file"):
        make(manifest, tmp_path)
    with pytest.raises(TokenizerError, match="262 fit"):
        make(manifest, clips, tokenizer=tokenizer, text=TextConfig(vocab_size=262))
    with pytest.raises((ManifestError, SchemaMismatchError)):
        make(tokenizer, clips)


@pytest.fixture(scope="module")
def prepared(clips: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two clips each, in the manifest's order turned round."""
    out = tmp_path_factory.mktemp("prepared")
    settings = PreparedSettings(short_side=36, shard_size=2)
    run_plan(PrepareRun(root=clips, out=out, settings=settings, manifests=[manifest], workers=1, num_samples=0))
    return out


@pytest.fixture
def shards(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(prepared, tmp_path / "shards"))


class TestPreparedShards:
    def test_they_give_what_the_files_give(self, manifest: Path, clips: Path, shards: Path) -> None:
        raw, ready = make(manifest, clips), make(manifest, shards)
        # What does not decode at all is in no shard; a stream that does not is missing there.
        assert set(ready.clip_ids) == {clip_id_of(number) for number in (0, 1, 2, 4, 5)}
        for sample in ready:
            original = raw[raw.clip_ids.index(sample.clip_id)]
            assert flags(sample) == flags(original) and sample.label == original.label
            assert (sample.video.float() - original.video.float()).abs().mean() < 6
            assert (sample.log_mel - original.log_mel).abs().mean() < 0.6

    def test_neighbours_are_neighbours_in_the_shards(self, manifest: Path, shards: Path, tmp_path: Path) -> None:
        turned = write_manifest(tmp_path / "turned.parquet", ROWS[::-1])
        stored = [each for each in ShardIndex(shards / INDEX_FILE).table["clip_id"].to_pylist() if "00003A" not in each]
        assert make(manifest, shards).clip_ids == make(turned, shards).clip_ids == stored
        # What is in no shard comes last, where it may come at all.
        everything = make(turned, shards, require=())
        assert everything.clip_ids[: len(stored)] == stored and len(everything) == len(ROWS)
        assert flags(everything[len(everything) - 1]) == (False, False, False) and not everything.failures

    def test_training_windows_repeat_by_seed(self, manifest: Path, shards: Path) -> None:
        dataset = make(manifest, shards, train=True)
        assert same(dataset[(3, 0)], dataset[(3, 0)])
        looks = {dataset[(epoch, 0)].video.numpy().tobytes() for epoch in range(8)}
        assert len(looks) > 3

    @pytest.mark.parametrize("scheme", ["local://", "memory://"])
    def test_a_url_is_as_good_as_a_folder(self, manifest: Path, shards: Path, scheme: str) -> None:
        url = f"{scheme}{shards}"
        if scheme == "memory://":
            for path in shards.iterdir():
                fsspec.filesystem("memory").pipe_file(f"{shards}/{path.name}", path.read_bytes())
        near, far = make(manifest, shards), make(manifest, url)
        assert near.clip_ids == far.clip_ids
        assert all(same(one, other) for one, other in zip(near, far, strict=True))

    def test_a_missing_shard_stops_and_is_named(self, manifest: Path, shards: Path) -> None:
        dataset = make(manifest, shards, max_failures=1000)
        (shards / "train-000000.tar").unlink()
        with pytest.raises(StorageError, match=r"train-000000\.tar: no such file.*prepare"):
            dataset[0]
        assert not dataset.failures and dataset[len(dataset) - 1].clip_id

    def test_a_shard_cut_short_stops_and_is_named(self, manifest: Path, shards: Path) -> None:
        path = shards / "train-000000.tar"
        path.write_bytes(path.read_bytes()[:4096])
        with pytest.raises(StorageError, match=r"train-000000\.tar"):
            make(manifest, shards)[0]

    def test_a_damaged_record_is_masked_and_counted(self, manifest: Path, shards: Path) -> None:
        dataset = make(manifest, shards)
        row = ShardIndex(shards / INDEX_FILE).row(0)
        path = shards / row.shard
        data = bytearray(path.read_bytes())
        data[row.video_offset : row.video_offset + row.video_bytes] = bytes(row.video_bytes)
        path.write_bytes(data)
        assert not dataset[0].has_video and dataset[1].has_video
        assert list(dataset.failures) == [row.clip_id] and "damaged near byte" in dataset.failures[row.clip_id]
        with pytest.raises(DecodeError, match=r"1 of 5 clips do not decode, max_failures is 0: .*damaged near byte"):
            make(manifest, shards, max_failures=0)[0]

    def test_an_error_of_a_worker_names_it_too(
        self, manifest: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
        dataset = make(manifest, shards)
        (shards / "train-000000.tar").unlink()
        with pytest.raises(StorageError, match=r"train-000000\.tar"):
            list(DataLoader(Subset(dataset, [0]), collate_fn=collate, num_workers=1))
        gc.collect()

    @pytest.mark.parametrize("scheme", ["", "local://"])
    def test_a_change_of_the_shards_is_seen(self, manifest: Path, shards: Path, scheme: str) -> None:
        before = make(manifest, f"{scheme}{shards}")
        (shards / "train-000000.arrow").unlink()
        assert write_index(shards) < before.num_clips
        after = make(manifest, f"{scheme}{shards}")
        assert after.num_clips == before.num_clips - 2 and set(after.clip_ids) < set(before.clip_ids)

    def test_other_settings_are_refused_at_the_start(self, manifest: Path, shards: Path) -> None:
        with pytest.raises(ConfigError, match="prepared with audio hop_length 160"):
            make(manifest, shards, audio=AudioConfig(hop_length=200))
        with pytest.raises(StorageError, match="no prepared shards there"):
            make(manifest, f"local://{shards / 'absent'}")


class TestRealFiles:
    pytestmark = needs_samples

    def test_kinetics_clips_by_their_video_name(self, tmp_path: Path) -> None:
        ids = ["R6llTwEh07w_000000_000010", "SOX5yA1l24A_000299_000309", "WUzgd7C1pWA_000101_000111"]
        manifest = write_manifest(tmp_path / "m.parquet", [{"clip_id": clip_id, "split": "val"} for clip_id in ids])
        dataset = KineticsAVT(manifest, SAMPLES / "torchvision", split="val", train=False)
        for sample in (dataset[index] for index in range(3)):
            assert flags(sample) == (True, True, False)
            # Real pictures move and are not flat.
            assert sample.video.float().std() > 20 and not torch.equal(sample.video[0], sample.video[-1])

    def test_every_sample_file_gives_a_sample(self, tmp_path: Path) -> None:
        paths = {clip_id_of(number): path for number, path in enumerate(sorted(SAMPLES.rglob("*.*")))}
        manifest = write_manifest(tmp_path / "m.parquet", [{"clip_id": clip_id} for clip_id in paths])
        dataset = KineticsAVT(
            manifest, paths, video=VideoConfig(size=32, short_side=36, num_frames=4), seed=3, max_failures=100
        )
        for index, path in enumerate(paths.values()):
            sample = dataset[index]
            assert sample.video.shape == (4, 32, 32, 3)
            is_sound_alone = path.suffix in (".wav", ".mp3")
            assert sample.has_video != is_sound_alone
            assert sample.has_audio or not is_sound_alone
        assert all("no video stream" in reason for reason in dataset.failures.values())

    @pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
    def test_clips_are_served_with_the_true_has_audio(self, tmp_path: Path, step: int) -> None:
        with (FIGHT / "manifest.csv").open(encoding="utf-8", newline="") as file:
            truth = list(csv.DictReader(file))[::step]
        # Sound, digital silence, and no stream at all.
        assert len({(clip["has_audio"], float(clip["audio_peak"] or 0) > 0) for clip in truth}) == 3
        mapping = {clip_id_of(number): FIGHT / clip["clip"] for number, clip in enumerate(truth)}
        rows = [{"clip_id": clip_id} for clip_id in mapping]
        manifest = write_manifest(tmp_path / "m.parquet", rows)
        dataset = KineticsAVT(manifest, mapping, train=False, require=())
        assert len(dataset) == 60 // step
        for index, clip in enumerate(truth):
            expected = clip["has_audio"] == "True" and float(clip["audio_peak"]) > 0
            sample = dataset[index]
            assert sample.has_video and sample.has_audio == expected, clip["clip"]
            assert sample.video.shape == (16, 224, 224, 3) and sample.log_mel.shape == (80, 256)
            assert sample.video.float().std() > 1 and sample.log_mel.any() == expected
        assert not dataset.failures
