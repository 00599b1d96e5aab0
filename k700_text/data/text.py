"""Titles to token ids: a byte-level BPE of our own, so that every title of every language has an encoding.

Axes: S tokens.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from k700_text.config import TextConfig
from k700_text.errors import TokenizerError
from k700_text.files.atomic import write_whole
from k700_text.our_files import TOKENIZER, kind_of_ours
from k700_text.titles import join_halves

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
_SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
_NUM_BYTES = 256
MIN_VOCAB_SIZE = len(_SPECIAL_TOKENS) + _NUM_BYTES
"""The four special tokens and one entry for every byte: with less some titles had no encoding."""
MAX_VOCAB_SIZE = 2**20
"""Entries that are read at most, twenty times as many as are usual."""

_MAX_FILE_BYTES = 2**26
"""Larger than a file of so many entries; what is larger is not read."""
_STEADY_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Sequence"})
_STEADY_PRE_TOKENIZERS = frozenset({"ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "Sequence"})
"""Whose time and result grow no faster than the title. Others take a pattern, or a text to put in, from the file."""


class TitleTokenizer:
    """Encodes titles; pickles to its path, and is loaded again where it is unpickled.

    Args:
        path: file written by ``train_tokenizer``.
        max_vocab_size: entries that fit; None takes any number.

    Raises:
        TokenizerError: the file is missing, is not ours, has more entries than fit, or would cost more to use than its
            titles are long. It may be a stranger's: padding and cutting that it asks for are left out.
    """

    pad_id = PAD_ID

    def __init__(self, path: str | Path, *, max_vocab_size: int | None = None) -> None:
        self.path = Path(path)
        self._tokenizer = _load(self.path)
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        if max_vocab_size is not None and self.vocab_size > max_vocab_size:
            raise TokenizerError(
                f"{self.path} has {self.vocab_size} entries, {max_vocab_size} fit: train it again with "
                f"--vocab-size {max_vocab_size}, or raise vocab_size"
            )

    def __reduce__(self) -> tuple[type[TitleTokenizer], tuple[Path]]:
        return TitleTokenizer, (self.path,)

    def encode(self, title: str, config: TextConfig | None = None) -> tuple[Tensor, Tensor]:
        """Returns token ids, int64 (S,), and the mask, bool (S,), True where a token stands.

        bos and eos enclose the title; what does not fit is cut, the rest is padding.

        Args:
            title: any text.
            config: length; the default when None.
        """
        max_length = (config or TextConfig()).max_length
        return _padded([BOS_ID, *self.token_ids(title)[: max_length - 2], EOS_ID], self.pad_id, max_length)

    def token_ids(self, title: str) -> list[int]:
        """Returns the ids of a title alone: no bos, no eos, nothing cut."""
        ids: list[int] = self._tokenizer.encode(_encodable(title), add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Returns the title (in Unicode form NFC) that the ids spell; special ids are left out."""
        text: str = self._tokenizer.decode([int(token) for token in token_ids if int(token) > UNK_ID])
        return text


class LibraryTokenizer:
    """Encodes titles with a tokenizer of the tokenizers library as it is: its special tokens, its ids, its padding.

    One that was made by ``k700-text tokenizer`` gives what ``TitleTokenizer`` gives. Pickles with all its content.

    Args:
        tokenizer: is copied; what it says of truncation is left aside.
        pad_id: None takes the id that it pads with, 0 where it says none (``text_mask`` tells padding in any case).
    """

    def __init__(self, tokenizer: Tokenizer, *, pad_id: int | None = None) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A title may spell "[PAD]": that is text, not padding.
        self._tokenizer.encode_special_tokens = True
        if _is_ours(tokenizer):
            bos, eos = ((_SPECIAL_TOKENS[token], token) for token in (BOS_ID, EOS_ID))
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{bos[0]} $A {eos[0]}", special_tokens=[bos, eos]
            )
        self.pad_id: int = (tokenizer.padding or {}).get("pad_id", 0) if pad_id is None else pad_id
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    def __reduce__(self) -> tuple[Any, ...]:
        return _library_tokenizer, (self._tokenizer.to_str(), self.pad_id)

    def encode(self, title: str, config: TextConfig | None = None) -> tuple[Tensor, Tensor]:
        """Returns token ids, int64 (S,), and the mask, bool (S,), as ``TitleTokenizer.encode`` does.

        What does not fit is cut from the title; special tokens that it is given stay.
        """
        max_length = (config or TextConfig()).max_length
        if (self._tokenizer.truncation or {}).get("max_length") != max_length:
            self._tokenizer.enable_truncation(max_length)
        return _padded(self._tokenizer.encode(_encodable(title)).ids, self.pad_id, max_length)


AnyTokenizer = TitleTokenizer | LibraryTokenizer | Tokenizer
"""What takes the place of a tokenizer's file; a fast tokenizer of transformers does too."""


def tokenizer_of(given: Any, max_vocab_size: int) -> TitleTokenizer | LibraryTokenizer:
    """Returns what encodes titles.

    Args:
        given: a file of ``k700-text tokenizer``, one of ours, a ``tokenizers.Tokenizer``, or what wraps one as
            ``backend_tokenizer`` and has a ``pad_token_id`` (the fast tokenizers of transformers).
        max_vocab_size: entries that a file may have.

    Raises:
        TokenizerError: the file is missing, not ours or too large; or what is given is none of these.
    """
    if isinstance(given, TitleTokenizer | LibraryTokenizer):
        return given
    if isinstance(given, str | os.PathLike):
        return TitleTokenizer(os.fspath(given), max_vocab_size=max_vocab_size)
    wrapped = getattr(given, "backend_tokenizer", given)
    if isinstance(wrapped, Tokenizer):
        return LibraryTokenizer(wrapped, pad_id=getattr(given, "pad_token_id", None))
    raise TokenizerError(
        f"tokenizer must be a file of k700-text tokenizer or a tokenizers.Tokenizer, got {type(given).__name__}"
        f" {' '.join(reprlib.repr(given).split())}"
    )


def _library_tokenizer(content: str, pad_id: int) -> LibraryTokenizer:
    return LibraryTokenizer(Tokenizer.from_str(content), pad_id=pad_id)


def train_tokenizer(titles: Iterable[str], out: str | Path, vocab_size: int) -> TitleTokenizer:
    """Learns a byte-level BPE from titles, writes it as JSON and returns it; the same titles give the same bytes.

    Args:
        titles: the training texts; equal ones count as often as they occur.
        out: file to write; appears whole or not at all.
        vocab_size: entries asked for; few titles give fewer.

    Raises:
        TokenizerError: there are no titles, or ``vocab_size`` is below MIN_VOCAB_SIZE.
        OSError: the file cannot be written.
    """
    out = Path(out)
    texts = sorted(_encodable(title) for title in titles if title.strip())
    if not texts:
        raise TokenizerError("no titles to train a tokenizer on: crawl first, or choose another split")
    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size must be at least {MIN_VOCAB_SIZE} (special tokens and bytes), got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL_TOKENS[UNK_ID]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_whole(out, tokenizer.to_str(pretty=True))
    return TitleTokenizer(out)


_REMEDY = (
    "k700-text tokenizer makes one; to use another as it is, give KineticsAVT"
    " tokenizers.Tokenizer.from_file(...) in its place"
)


def _load(path: Path) -> Any:
    text = _read(path)
    if fault := _fault(text):
        raise TokenizerError(f"{path} is not a tokenizer file that we use: {fault}; {_REMEDY}")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{path} is not a tokenizer file: {' '.join(str(error).split())[:300]}") from error
    if not _is_ours(tokenizer):
        raise TokenizerError(f"{path} was not made by k700-text tokenizer, its special tokens are not ours: {_REMEDY}")
    # A title may spell "<pad>": that is text, not padding.
    tokenizer.encode_special_tokens = True
    # Ours to do: a length of 2**40 in the file would be allocated for each title.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _is_ours(tokenizer: Tokenizer) -> bool:
    ids = tuple(tokenizer.token_to_id(token) for token in _SPECIAL_TOKENS)
    return ids == (PAD_ID, BOS_ID, EOS_ID, UNK_ID) and isinstance(tokenizer.decoder, decoders.ByteLevel)


def _padded(tokens: Sequence[int], pad_id: int, length: int) -> tuple[Tensor, Tensor]:
    # Through numpy: torch takes three times as long for tensors this small.
    token_ids = np.full(length, pad_id, dtype=np.int64)
    token_ids[: len(tokens)] = tokens
    return torch.from_numpy(token_ids), torch.from_numpy(np.arange(length) < len(tokens))


def _no_tokenizer(path: Path) -> str | None:
    kind = kind_of_ours(path)
    return None if kind in (None, TOKENIZER) else f"{path} is {kind}: name {TOKENIZER}"


def _read(path: Path) -> str:
    try:
        if not path.exists():
            raise TokenizerError(f"no such tokenizer: {path} (k700-text tokenizer makes one)")
        if kind := _no_tokenizer(path):
            raise TokenizerError(kind)
        if not path.is_file():  # a pipe would be waited for, a device read without end
            raise TokenizerError(f"cannot read the tokenizer {path}: it is no file")
        if (size := path.stat().st_size) > _MAX_FILE_BYTES:
            raise TokenizerError(f"cannot read the tokenizer {path}: {size:,} bytes are more than {_MAX_FILE_BYTES:,}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path} is not a tokenizer file: it cannot be read as a tokenizer.json, it is no text; k700-text tokenizer"
            " makes one"
        ) from error
    except OSError as error:
        raise TokenizerError(f"cannot read the tokenizer {path}: {error}") from error


def _fault(text: str) -> str:
    """Returns what in a tokenizer's JSON would cost more than a title is long, or mean no id of a table; "" if nothing.

    Looked at before the library reads it, which ends the process where memory does not suffice.
    """
    try:
        content: Any = json.loads(text)
        model = content["model"]
        ids = [*model["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
        normalizers_used = set(_types(content.get("normalizer")))
        pre_tokenizers_used = set(_types(content.get("pre_tokenizer")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}, {error}"[:200]
        return f"it cannot be read as a tokenizer.json ({reason})"
    if model.get("type", "BPE") != "BPE" or model.get("dropout"):
        return "its model is no BPE without dropout"
    if not all(isinstance(number, int) and 0 <= number < MAX_VOCAB_SIZE for number in ids):
        return f"its ids must be whole numbers from 0 to below {MAX_VOCAB_SIZE:,}"
    if strange := normalizers_used - _STEADY_NORMALIZERS | pre_tokenizers_used - _STEADY_PRE_TOKENIZERS:
        return f"its normalizer or pre_tokenizer is {str(min(strange))[:40]!r}, which may take any time"
    return ""


def _types(step: Any) -> Iterator[str]:
    """Yields the types of a normalizer or pre-tokenizer and of those that it is a sequence of."""
    if step is not None:
        yield str(step["type"])
        for part in (*step.get("normalizers", ()), *step.get("pretokenizers", ())):
            yield from _types(part)


def _encodable(title: str) -> str:
    """Returns the title with UTF-16 halves joined, and lone ones, which no encoding has, replaced."""
    return join_halves(title).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
