"""Where a folder keeps its ledger: under a name that readers of the folder leave out.

``pandas.read_parquet(folder)`` and ``datasets.load_dataset(folder)`` skip what begins with ``_`` or ``.``. A ledger is
worth keeping, so people should see it, and copy it with the rest: ``_``. Earlier versions had no underscore; such a
ledger is used where it lies, and the next crawl gives it its name of today.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from k700_text.crawl.ledger import lock_ledger
from k700_text.crawl.ledger_store import connect, connect_read_only, translated
from k700_text.errors import UsageError

LEDGER_NAME = "_ledger.sqlite"
PART_PATTERNS = ("_ledger-*.sqlite", "ledger-*.sqlite")
_COMPANIONS = ("-wal", "-shm", ".lock")


def ledger_in(folder: Path, name: str = LEDGER_NAME) -> Path:
    """Returns where the ledger of a folder is, or will be.

    Args:
        folder: of a crawl.
        name: of the whole ledger, or of that of a part.

    Raises:
        UsageError: there are two.
    """
    path, earlier = folder / name, _earlier(folder, name)
    if earlier == path or not earlier.exists():
        return path
    if path.exists():
        raise UsageError(
            f"{folder} holds two ledgers, {path.name} and {earlier.name}: move the second one out of the folder, then "
            "unite them with k700-text merge"
        )
    return earlier


def part_ledgers(folder: Path) -> list[Path]:
    """Returns the ledgers of parts that a folder holds, in order of their names."""
    return sorted(path for pattern in PART_PATTERNS for path in folder.glob(pattern))


def _earlier(folder: Path, name: str) -> Path:
    return folder / name.removeprefix("_")


def settle_ledger(folder: Path, name: str = LEDGER_NAME, say: Callable[[str], None] = lambda text: None) -> Path:
    """Returns where the ledger of a folder is, after one of an earlier version got its name of today.

    A ledger that somebody reads just now is left where it is, until the next time.

    Args:
        folder: of a crawl.
        name: of the whole ledger, or of that of a part.
        say: told where it went.

    Raises:
        LedgerError: it is in use by another process, damaged, or no ledger.
        UsageError: there are two.
    """
    path, earlier = folder / name, ledger_in(folder, name)
    if earlier == path:
        return path
    with lock_ledger(earlier):
        connect_read_only(earlier).close()  # refuses what is no ledger of ours
        with translated(earlier), closing(connect(earlier)) as connection:
            # With the last connection the log goes into the file, and away.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if Path(f"{earlier}-wal").exists():
            return earlier
        earlier.rename(path)
        for companion in _COMPANIONS:
            Path(f"{earlier}{companion}").unlink(missing_ok=True)
    say(f"{earlier} is {path.name} now, which other programs leave out when they read the folder")
    return path
