from __future__ import annotations

import json
import os
import pickle
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from k700_text.cli.main import _invoke
from k700_text.config import TextConfig
from k700_text.data.reader import SampleReader
from k700_text.data.text import BOS_ID, EOS_ID, MIN_VOCAB_SIZE, PAD_ID, TitleTokenizer, tokenizer_of, train_tokenizer
from k700_text.errors import TokenizerError, UsageError
from tests.k700_text.media_files import clip_id_of, write_manifest

TITLES = [
    "How to ride a unicycle in 5 minutes",
    "How to ride a bike",
    "Riding a segway!! :)",
    "ハウツー 自転車に乗る",
    "Как ездить на велосипеде",
    "자전거 타는 법 🚲",
] * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TitleTokenizer:
    return train_tokenizer(TITLES, tmp_path_factory.mktemp("t") / "tokenizer.json", 400)


def test_ids_are_enclosed_padded_and_masked(tokenizer: TitleTokenizer) -> None:
    token_ids, mask = tokenizer.encode("How to ride")
    assert token_ids.shape == mask.shape == (128,)
    assert (token_ids.dtype, mask.dtype) == (torch.int64, torch.bool)
    length = int(mask.sum())
    assert mask[:length].all() and not mask[length:].any()
    assert token_ids[0] == BOS_ID and token_ids[length - 1] == EOS_ID and (token_ids[length:] == PAD_ID).all()
    assert tokenizer.decode(token_ids) == "How to ride"


def test_a_long_title_is_cut_and_still_ends(tokenizer: TitleTokenizer) -> None:
    token_ids, mask = tokenizer.encode("ride a bike " * 100, TextConfig(max_length=16))
    assert token_ids.shape == (16,) and mask.all() and token_ids[-1] == EOS_ID


@given(st.text())
def test_any_text_comes_back(tokenizer: TitleTokenizer, title: str) -> None:
    assert tokenizer.decode(tokenizer.token_ids(title)) == unicodedata.normalize("NFC", title)


@pytest.mark.parametrize("title", ["<pad>", "a <eos> b", "<bos><unk>", " leading", "trailing ", "ＡＢＣ", "e\u0301"])
def test_titles_that_spell_special_tokens_or_spaces_come_back(tokenizer: TitleTokenizer, title: str) -> None:
    ids = tokenizer.token_ids(title)
    assert min(ids) >= 4
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", title)


def test_a_lone_surrogate_is_replaced(tokenizer: TitleTokenizer) -> None:
    assert "�" in tokenizer.decode(tokenizer.token_ids("a\ud83d b"))


def test_case_is_kept(tokenizer: TitleTokenizer) -> None:
    assert tokenizer.token_ids("RIDE") != tokenizer.token_ids("ride")


def test_the_same_titles_give_the_same_bytes(tmp_path: Path, tokenizer: TitleTokenizer) -> None:
    for order in (TITLES, TITLES[::-1], sorted(TITLES)):
        train_tokenizer(order, tmp_path / "again.json", 400)
        assert (tmp_path / "again.json").read_bytes() == tokenizer.path.read_bytes()


def test_it_pickles_to_its_path(tokenizer: TitleTokenizer) -> None:
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).token_ids("ride") == tokenizer.token_ids("ride")


def foreign(pad_id: int | None = 2) -> Tokenizer:
    """A tokenizer of words with special tokens of its own, at ids of its own."""
    words = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "how", "to", "ride"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(words[:4])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.enable_truncation(3)
    if pad_id is not None:
        tokenizer.enable_padding(pad_id=pad_id, length=50)
    return tokenizer


@given(st.text())
def test_the_library_s_object_gives_what_the_file_gives(tokenizer: TitleTokenizer, title: str) -> None:
    by_object = tokenizer_of(Tokenizer.from_file(str(tokenizer.path)), 1)
    for config in (TextConfig(), TextConfig(max_length=5)):
        assert all(map(torch.equal, by_object.encode(title, config), tokenizer.encode(title, config)))


def test_a_foreign_tokenizer_is_used_as_it_is() -> None:
    given = foreign()
    tokenizer = tokenizer_of(given, 1)
    ids, mask = tokenizer.encode("how to ride [PAD] \ud800", TextConfig(max_length=12))
    # What a title spells is text.
    assert ids.tolist() == [0, 4, 5, 6, 3, 3, 3, 3, 1, 2, 2, 2] and int(mask.sum()) == 9
    ids, mask = tokenizer.encode("how to ride to", TextConfig(max_length=4))
    assert ids.tolist() == [0, 4, 5, 1] and mask.all()
    assert given.truncation["max_length"] == 3 and given.encode("how").ids[:3] == [0, 4, 1], "it is left as it was"
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copy.encode("to ride")[0], tokenizer.encode("to ride")[0]) and copy.pad_id == 2
    assert tokenizer_of(foreign(pad_id=None), 1).pad_id == 0


def test_a_fast_tokenizer_of_transformers_is_what_it_wraps() -> None:
    class Fast:
        backend_tokenizer = foreign(pad_id=None)
        pad_token_id = 2

    assert tokenizer_of(Fast(), 1).encode("how", TextConfig(max_length=5))[0].tolist() == [0, 4, 1, 2, 2]


def test_no_title_is_padding_of_the_tokenizer() -> None:
    sample, _ = SampleReader(tokenizer=tokenizer_of(foreign(), 1)).read(None, clip_id="any", title=" ")
    assert set(sample.token_ids.tolist()) == {2} and not sample.text_mask.any()


def test_a_file_of_a_foreign_tokenizer_is_told_what_to_do(tmp_path: Path) -> None:
    foreign().save(str(tmp_path / "bert.json"))
    with pytest.raises(TokenizerError, match=r"to use another as it is, give KineticsAVT tokenizers.Tokenizer"):
        tokenizer_of(tmp_path / "bert.json", 100)


def rewritten(tokenizer: TitleTokenizer, path: Path, **parts: object) -> Path:
    """A copy with other parts of the top level or, by names with a dot as ``model__vocab``, of the second."""
    content = json.loads(tokenizer.path.read_text(encoding="utf-8"))
    for name, value in parts.items():
        *groups, last = name.split("__")
        (content[groups[0]] if groups else content)[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("length", [7, 2**28, 2**40])
def test_padding_and_cutting_that_a_file_asks_for_are_left_out(
    tokenizer: TitleTokenizer, tmp_path: Path, length: int
) -> None:
    """The library would allocate the length for each title, and end the process where it cannot."""
    padding = {
        "strategy": {"Fixed": length},
        "direction": "Right",
        "pad_to_multiple_of": length,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    cutting = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    path = rewritten(tokenizer, tmp_path / "t.json", padding=padding, truncation=cutting)
    assert TitleTokenizer(path).token_ids("How to ride") == tokenizer.token_ids("How to ride")


def sequence(kind: str, part: object, depth: int) -> object:
    return part if not depth else {"type": "Sequence", kind: [sequence(kind, part, depth - 1)]}


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"model__vocab": {"a": 2**20}}, "whole numbers from 0 to below 1,048,576"),
        ({"model__vocab": {"a": -1}}, "whole numbers from 0"),
        ({"added_tokens": [{"id": 2**40}]}, "whole numbers from 0"),
        ({"added_tokens": 3}, "cannot be read as a tokenizer.json"),
        ({"model__dropout": 0.5}, "no BPE without dropout"),
        ({"model__type": "Unigram"}, "no BPE without dropout"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 999}}, "'Replace', which may"),
        ({"normalizer": sequence("normalizers", {"type": "Precompiled"}, 3)}, "'Precompiled', which may take any time"),
        (
            {"pre_tokenizer": sequence("pretokenizers", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}, 1)},
            "'Split', which may take any time",
        ),
    ],
)
def test_a_strangers_file_that_could_cost_anything_is_one_line(
    tokenizer: TitleTokenizer, tmp_path: Path, parts: dict[str, object], line: str
) -> None:
    with pytest.raises(TokenizerError, match=line) as failure:
        TitleTokenizer(rewritten(tokenizer, tmp_path / "t.json", **parts))
    assert "\n" not in str(failure.value)


def test_an_id_beyond_the_table_does_not_fit_however_few_entries_there_are(
    tokenizer: TitleTokenizer, tmp_path: Path
) -> None:
    vocabulary = json.loads(tokenizer.path.read_text(encoding="utf-8"))["model"]["vocab"]
    path = rewritten(tokenizer, tmp_path / "t.json", model__vocab={**vocabulary, "r": 5000})
    assert TitleTokenizer(path).vocab_size == 5001
    with pytest.raises(TokenizerError, match="has 5001 entries, 400 fit"):
        TitleTokenizer(path, max_vocab_size=400)


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TokenizerError, match="it is no file"):
        TitleTokenizer(tmp_path / "pipe")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TokenizerError, match="bytes are more than"):
        TitleTokenizer(tmp_path / "huge.json")
    (tmp_path / "deep.json").write_text("[" * 10**6)
    with pytest.raises(TokenizerError, match="cannot be read as a tokenizer"):
        TitleTokenizer(tmp_path / "deep.json")


def test_what_does_not_fit_is_refused(tokenizer: TitleTokenizer, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="300 fit"):
        TitleTokenizer(tokenizer.path, max_vocab_size=300)
    with pytest.raises(TokenizerError, match="no such tokenizer"):
        TitleTokenizer(tmp_path / "absent.json")
    with pytest.raises(TokenizerError, match="cannot read"):
        TitleTokenizer(tmp_path)
    (tmp_path / "junk.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a tokenizer file"):
        TitleTokenizer(tmp_path / "junk.json")
    foreign = json.loads(tokenizer.path.read_text(encoding="utf-8"))
    foreign["added_tokens"] = []
    del foreign["model"]["vocab"]["<pad>"]
    (tmp_path / "foreign.json").write_text(json.dumps(foreign), encoding="utf-8")
    with pytest.raises(TokenizerError, match="not ours"):
        TitleTokenizer(tmp_path / "foreign.json")


@pytest.mark.parametrize(("titles", "size", "message"), [([], 400, "no titles"), (["  "], 400, "no titles")])
def test_nothing_to_train_on(tmp_path: Path, titles: list[str], size: int, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(titles, tmp_path / "t.json", size)


def test_too_few_entries(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=str(MIN_VOCAB_SIZE)):
        train_tokenizer(TITLES, tmp_path / "t.json", MIN_VOCAB_SIZE - 1)
    assert train_tokenizer(TITLES, tmp_path / "t.json", MIN_VOCAB_SIZE).vocab_size == MIN_VOCAB_SIZE


def test_the_command_trains_on_the_train_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(
        tmp_path / "m.parquet",
        [
            {"clip_id": clip_id_of(1), "title": "one title"},
            {"clip_id": clip_id_of(1)[:11] + "_000020_000030", "title": "one title"},
            {"clip_id": clip_id_of(2), "title": "another title", "split": "val"},
            {"clip_id": clip_id_of(3)},
        ],
    )
    out = tmp_path / "tokenizer.json"
    _invoke(["tokenizer", "--manifest", str(manifest), "--out", str(out), "--vocab-size", "300", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["titles"] == 1 and answer["entries"] == TitleTokenizer(out).vocab_size
    assert answer["share_of_titles_that_fit"] == 1.0
    with pytest.raises(TokenizerError, match="no titles in split 'test'"):
        _invoke(["tokenizer", "--manifest", str(manifest), "--out", str(out), "--split", "test"])
    with pytest.raises(UsageError, match="unknown split"):
        _invoke(["tokenizer", "--manifest", str(manifest), "--out", str(out), "--split", "every"])
