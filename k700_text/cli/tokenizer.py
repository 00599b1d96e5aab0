"""k700-text tokenizer: learns the token set from the titles of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k700_text.cli.common import emit_json, emit_table, say
from k700_text.errors import MissingExtraError, TokenizerError, UsageError

if TYPE_CHECKING:
    from k700_text.data.text import TitleTokenizer


def tokenizer(
    manifest: Annotated[list[Path], typer.Option("--manifest", help="Manifest, file or folder; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(help="Entries asked for; few titles give fewer.")] = 48_000,
    split: Annotated[str, typer.Option(help="Whose titles: train, val, test or all.")] = "train",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Trains a byte-level BPE tokenizer on titles, each video's title once.

    Example: k700-text tokenizer --manifest train.parquet --out tokenizer.json
    """
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder, create it first")
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name the JSON file to write")
    titles = _titles(manifest, split)
    if not titles:
        raise TokenizerError(f"no titles in split {split!r} of {', '.join(map(str, manifest))}: crawl them first")
    say(f"training on {len(titles)} titles")
    try:
        from k700_text.data.text import train_tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'k700-text[data]'") from error
    trained = train_tokenizer(titles, out, vocab_size)
    facts = {"out": str(out), "entries": trained.vocab_size, "titles": len(titles), **_coverage(trained, titles)}
    if json:
        emit_json("tokenizer", facts)
    else:
        emit_table("tokenizer", [(name.replace("_", " "), value) for name, value in facts.items()])


def _titles(manifests: list[Path], split: str) -> list[str]:
    """Returns one title for every video that has one."""
    import pyarrow.compute as pc

    from k700_text.manifest_files import read_manifests
    from k700_text.records import Split

    columns = ["youtube_id", "title", *([] if split == "all" else ["split"])]
    table = read_manifests(manifests, columns)
    if split != "all":
        try:
            wanted = Split.parse(split)
        except ValueError as error:
            raise UsageError(f"{error}, or all") from error
        table = table.filter(pc.equal(table["split"], wanted.value))
    table = table.filter(pc.is_valid(table["title"]))
    by_video = dict(zip(table["youtube_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    return list(by_video.values())


def _coverage(trained: TitleTokenizer, titles: list[str]) -> dict[str, float]:
    from k700_text.config import TextConfig
    from k700_text.data.text import MIN_VOCAB_SIZE

    lengths = [trained.token_ids(title) for title in titles]
    num_tokens = sum(map(len, lengths))
    room = TextConfig().max_length - 2
    num_learned = sum(token >= MIN_VOCAB_SIZE for ids in lengths for token in ids)
    return {
        "characters_per_token": round(sum(map(len, titles)) / max(1, num_tokens), 2),
        "share_of_titles_that_fit": round(sum(len(ids) <= room for ids in lengths) / len(titles), 4),
        "share_of_tokens_above_one_byte": round(num_learned / max(1, num_tokens), 4),
    }
