from __future__ import annotations

import json
import pickle
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from k700_text.cli.main import _invoke
from k700_text.config import TextConfig
from k700_text.data.text import BOS_ID, EOS_ID, MIN_VOCAB_SIZE, PAD_ID, TitleTokenizer, train_tokenizer
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
