"""Clip files and titles straight into a model: the same samples as the loader's, and what is missing is told."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from k700_text import KineticsAVT
from k700_text.data.reader import SampleReader
from k700_text.data.sample import Batch, Sample
from k700_text.data.text import TitleTokenizer, train_tokenizer
from lava_model import Lava
from lava_model.errors import DataError
from tests.k700_text.media_files import SAMPLES, make_clip, write_manifest
from tests.lava_model.tiny import TINY

CONFIG = replace(TINY, vocab_size=300, max_text_length=12, trunk_stage=1)
TITLES = ["a dog on a skateboard", "two cats", None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "loud.mp4", 4.0, rate=12.0)
    make_clip(folder / "short.mp4", 0.4)
    make_clip(folder / "mute.mp4", 2.0, audio=None)
    train_tokenizer(["a dog on a skateboard", "two cats"] * 3, folder / "tok.json", 280)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> Lava:
    torch.manual_seed(0)
    model = Lava(CONFIG)
    model.tokenizer = TitleTokenizer(folder / "tok.json")
    return model


def assert_same_rows(batch: Batch, samples: list[Sample]) -> None:
    assert len(batch) == len(samples)
    for row, sample in enumerate(samples):
        for field in fields(Sample):
            if field.name not in ("clip_id", "label"):
                expected = torch.as_tensor(getattr(sample, field.name))
                assert torch.equal(getattr(batch, field.name)[row], expected), (row, field.name)


def loaders_samples(files: list[Path], titles: list[str | None], model: Lava, folder: Path, **views: int):
    """What the loader gives for the same files under a manifest."""
    ids = [f"video{number:05d}A_000000_000010" for number in range(len(files))]
    rows = [{"clip_id": clip_id, "title": title} for clip_id, title in zip(ids, titles, strict=True)]
    manifest = write_manifest(folder / "manifest.parquet", rows)
    config = model.config
    return KineticsAVT(
        manifest,
        {clip_id: str(file) for clip_id, file in zip(ids, files, strict=True)},
        tokenizer=model.tokenizer,
        train=False,
        require=(),
        video=config.video_config(),
        audio=config.audio_config(),
        text=config.text_config(),
        **views,
    )


@pytest.mark.parametrize("num_windows", [1, 3])
def test_a_clip_is_cut_as_the_loader_cuts_it(num_windows, model, folder, tmp_path):
    files = [folder / name for name in ("loud.mp4", "short.mp4", "mute.mp4")]
    dataset = loaders_samples(files, TITLES, model, tmp_path, num_views=num_windows)
    batch = model.read(files, TITLES, num_windows=num_windows)
    assert_same_rows(batch, [dataset[index] for index in range(len(dataset))])
    windows = [n for n in (1, 1, 0) for _ in range(num_windows)]
    assert batch.has_audio.tolist() == [bool(flag) for flag in windows]
    assert batch.clip_id[::num_windows] == tuple(map(str, files))
    if num_windows > 1:
        assert not torch.equal(batch.video[0], batch.video[1])


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no ../shared/data")
@pytest.mark.filterwarnings("ignore:.*takes part without what does not decode:UserWarning")  # some do not
def test_real_clips_are_cut_as_the_loader_cuts_them(model, tmp_path):
    kinds = {".mp4", ".avi", ".mov", ".mkv"}
    files = sorted(path for path in SAMPLES.rglob("*") if path.suffix in kinds)
    assert len(files) > 15
    dataset = loaders_samples(files, [None] * len(files), model, tmp_path)
    assert_same_rows(model.read(files), [dataset[index] for index in range(len(dataset))])


def test_five_lines_from_files_to_features(model, folder, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "export")
    monkeypatch.chdir(folder)
    loaded = Lava.from_pretrained(tmp_path / "export")
    batch = loaded.read(["loud.mp4", "mute.mp4"], titles=["a dog on a skateboard", None])
    features = loaded.encode(batch, modalities=("video", "audio", "text"))
    assert {name: tuple(rows.any(dim=1).tolist()) for name, rows in features.items()} == {
        "video": (True, True),
        "audio": (True, False),
        "text": (True, False),
    }
    assert torch.equal(features["video"], model.encode(batch)["video"])
    assert torch.equal(loaded.embed(batch).vt_text, model.embed(batch).vt_text)


def test_titles_alone_are_read_without_clips(model):
    batch = model.read([None, None, None], titles=["two cats", " ", None])
    assert batch.has_text.tolist() == [True, False, False]
    assert not batch.has_video.any()
    assert model.embed(batch).vt_text.norm(dim=1).tolist() == pytest.approx([1, 0, 0])


def test_features_of_many_clips_are_those_of_one_batch(model, folder):
    files = [folder / name for name in ("loud.mp4", "short.mp4", "mute.mp4")] + [None]
    whole = model.encode(model.read(files), ("video", "audio"))
    model.train()
    features = model.encode_clips(files, ("audio", "video"), batch_size=2)
    assert model.training and list(features) == ["audio", "video"]
    model.eval()
    for modality, rows in features.items():
        assert (rows.shape, rows.dtype, rows.requires_grad) == ((4, CONFIG.width), torch.float32, False)
        torch.testing.assert_close(rows, whole[modality], rtol=1e-5, atol=1e-6)
        assert torch.equal(rows.any(dim=1), whole[modality].any(dim=1))
    assert features["audio"].any(dim=1).tolist() == [True, True, False, False]
    assert torch.equal(model.encode_clips(files)["video"], whole["video"])


def test_only_a_batch_of_clips_is_held_and_only_what_is_asked_for_is_decoded(model, folder, monkeypatch):
    asked = []
    read = SampleReader.read

    def watched(self, clip, **options):
        asked.append((options["wants_video"], options["wants_audio"]))
        return read(self, clip, **options)

    sizes = []
    encode = model.encode
    monkeypatch.setattr(SampleReader, "read", watched)
    monkeypatch.setattr(model, "encode", lambda batch, names: sizes.append(len(batch)) or encode(batch, names))
    rows = model.encode_clips([folder / "short.mp4"] * 7, ("audio",), batch_size=3)["audio"]
    assert sizes == [3, 3, 1] and set(asked) == {(False, True)}
    assert len(rows.unique(dim=0)) == 1 and rows.any()


def test_features_of_titles_are_those_that_read_and_encode_give(model):
    titles = ["a dog on a skateboard", None, " ", "two cats", "two cats " * 50]
    expected = model.encode(model.read([None] * 5, titles), ("text",))["text"]
    features = model.encode_text(titles, batch_size=2)
    assert (features.shape, features.dtype, features.requires_grad) == ((5, CONFIG.width), torch.float32, False)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    assert features.any(dim=1).tolist() == [True, False, False, True, True]
    assert torch.equal(model.encode_text(titles), expected)


def test_a_clip_that_does_not_decode_has_no_features_and_is_told(model, folder, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    files = [tmp_path / "text.mp4", folder / "loud.mp4"]
    with pytest.warns(UserWarning, match=r"text\.mp4 takes part without what does not decode") as warned:
        features = model.encode_clips(files)
    assert Path(warned[0].filename).name == Path(__file__).name
    assert features["video"].any(dim=1).tolist() == [False, True]
    told: dict[str, str] = {}
    model.encode_clips(files, on_failure=told.__setitem__)
    assert list(told) == [str(files[0])]


def test_what_cannot_be_encoded_is_one_line(model, folder, tmp_path):
    last = [folder / "loud.mp4"] * 9 + [tmp_path / "absent.mp4"]
    for encode, kind, line in [
        (lambda: model.encode_clips(last, batch_size=1), DataError, "no such clip: .*absent.mp4"),
        (lambda: model.encode_clips("a.mp4"), DataError, r"use \['a\.mp4'\]"),
        (lambda: model.encode_clips([]), DataError, "no clips to read"),
        (
            lambda: model.encode_clips([None], batch_size=0),
            DataError,
            "batch_size must be a whole number of at least 1",
        ),
        (lambda: model.encode_clips([None], ("text",)), ValueError, "clips have no text: encode_text takes titles"),
        (lambda: model.encode_clips([None], "video"), ValueError, r"use \('video',\)"),
        (lambda: model.encode_text("a dog"), DataError, r"use \['a dog'\]"),
        (lambda: model.encode_text([]), DataError, "there are no titles to encode"),
        (lambda: model.encode_text([3]), DataError, "a title must be text"),
        (
            lambda: Lava(CONFIG).encode_text(["a dog"]),
            DataError,
            "this model has no tokenizer, so it cannot read titles",
        ),
    ]:
        with pytest.raises(kind, match=line) as failure:
            encode()
        assert "\n" not in str(failure.value)


def test_what_does_not_decode_is_told_and_takes_part_without_it(model, folder, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").touch()
    files = [folder / "loud.mp4", tmp_path / "text.mp4", tmp_path / "empty.mp4"]
    with pytest.warns(UserWarning, match="takes part without what does not decode") as warned:
        batch = model.read(files)
    assert batch.has_video.tolist() == [True, False, False]
    assert len(warned) == 2
    assert {Path(one.filename).name for one in warned} == {Path(__file__).name}
    assert all("\n" not in str(one.message) for one in warned)

    told: dict[str, str] = {}
    model.read(files, num_windows=2, on_failure=told.__setitem__)
    assert list(told) == [str(path) for path in files[1:]]
    assert all(told.values())


def test_the_batch_is_where_the_model_is(folder):
    with torch.device("meta"):
        model = Lava(CONFIG)
    assert model.read([folder / "mute.mp4"]).video.device.type == "meta"


@pytest.mark.parametrize(
    ("clips", "titles", "message"),
    [
        (["absent.mp4"], None, "no such clip: absent.mp4"),
        (["."], None, "is a folder, not a clip"),
        ([], None, "no clips to read"),
        ("a.mp4", None, r"must be a list of files, got 'a\.mp4': use \['a\.mp4'\]"),
        ([None], "a dog", "titles must be a list"),
        ([None, None], ["a dog"], "2 clips and 1 titles"),
        ([None], [float("nan")], "a title must be text, or None where there is none, got nan"),
        ([3], None, "a clip must be a path or None, got 3"),
    ],
)
def test_wrong_arguments_are_one_line(clips, titles, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as failure:
        model.read(clips, titles)
    assert "\n" not in str(failure.value)


def test_titles_without_a_tokenizer_and_no_window_are_refused(model):
    with pytest.raises(DataError, match="num_windows must be a whole number of at least 1, got 0"):
        model.read([None], num_windows=0)
    with pytest.raises(DataError, match=r"num_windows must be a whole number of at least 1, got 1\.5"):
        model.read([None], num_windows=1.5)  # type: ignore[arg-type]  # as a notebook might
    without = Lava(CONFIG)
    assert not without.read([None], [None]).has_text.any()
    with pytest.raises(DataError, match="this model has no tokenizer, so it cannot read titles"):
        without.read([None], ["a dog"])
