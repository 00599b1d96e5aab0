"""Every error that k700_text raises on purpose.

::

    K700TextError                     one clear line: what, which, what to do
    ├── UsageError                    a bad argument or option (exit code 2)
    ├── ConfigError                   lists every problem of a configuration at once
    ├── MissingExtraError             an optional dependency is not installed
    ├── AnnotationError               malformed annotation rows, all of them together
    ├── TransportError                a request failed; .host
    │   ├── NetworkDownError          no route or no name resolution
    │   ├── RefusedError              nobody listens there, or a firewall turns us away
    │   ├── CertificateError          the host does not prove that it is the one asked for
    │   ├── RateLimitedError          the host asked us to wait; .retry_after_seconds
    │   └── BlockedError              a block page, bot check or firewall
    │       └── FilteredNetworkError  a filter of our own network hides videos: waiting does not help
    ├── ParseError                    an answer that is not what the service documents; .source, .youtube_id
    ├── QuotaExhaustedError           the daily quota is used up; .resume_at
    ├── CredentialError               an API key that the service refuses
    ├── LockedError                   another process is writing there
    ├── LedgerError                   the ledger cannot be read or written
    ├── ManifestError                 a manifest that cannot be built or read
    │   └── SchemaMismatchError       a Parquet file of another schema; .expected, .actual
    ├── TokenizerError                a tokenizer that is missing or of another size
    ├── LoaderError                   a loader process that died, or samples that do not fit into its batches
    └── DecodeError                   a media file that cannot be decoded; .path
        └── StorageError              a file of a prepared folder that is missing or unreadable

"Removed" or "private" are outcomes (`records.Availability`), not errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from k700_text.terminal import one_line


class K700TextError(Exception):
    """Root of all errors of this package; its text is one clear line for the user.

    What it quotes of files and answers is cleaned as the text is read: a caller's traceback shows it too.
    """

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(K700TextError):
    """A bad argument or option."""

    exit_code = 2


class ConfigError(K700TextError):
    """One or more configuration values are out of range or unknown; lists all of them."""

    exit_code = 2

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class MissingExtraError(K700TextError, ImportError):
    """An optional dependency is missing or does not fit; the text says what to install.

    An ImportError too, so that ``try: from k700_text import KineticsAVT`` falls back as for any missing package.
    """


class AnnotationError(K700TextError):
    """Annotation files that cannot be read, or malformed rows (``problems``: file, line, reason each)."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__(message)


class TransportError(K700TextError):
    """A request that got no usable answer."""

    def __init__(self, message: str, *, host: str) -> None:
        self.host = host
        super().__init__(message)


class NetworkDownError(TransportError):
    """No name resolution or no route: says nothing about the service or the video."""


class RefusedError(TransportError):
    """The host refuses connections: it is down, or its firewall turns us away."""


class CertificateError(TransportError):
    """A certificate that has expired, is for another host or of an unknown signer: waiting does not help."""


class RateLimitedError(TransportError):
    """The host asked us to slow down; ``retry_after_seconds`` is None where it named no time."""

    def __init__(self, message: str, *, host: str, retry_after_seconds: float | None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message, host=host)


class BlockedError(TransportError):
    """A block page, a bot check or a firewall: the host is left alone, never evaded."""


class FilteredNetworkError(BlockedError):
    """A filter of the network we are in (a school's, a company's, of its DNS) hides videos from us."""


class ParseError(K700TextError):
    """An answer that does not look as the service documents it."""

    def __init__(self, message: str, *, source: str, youtube_id: str | None = None) -> None:
        self.source = source
        self.youtube_id = youtube_id
        super().__init__(message)


class QuotaExhaustedError(K700TextError):
    """The daily quota of a service is used up; ``resume_at`` is when it is renewed (UTC)."""

    def __init__(self, message: str, *, resume_at: datetime) -> None:
        self.resume_at = resume_at
        super().__init__(message)


class CredentialError(K700TextError):
    """An API key that is missing, malformed or refused. The text never holds the key."""


class LockedError(K700TextError):
    """Another process is writing what was asked for; the text says which."""


class LedgerError(K700TextError):
    """The crawl ledger cannot be opened, read or written."""


class ManifestError(K700TextError):
    """A manifest that cannot be built or read."""


class SchemaMismatchError(ManifestError):
    """A Parquet file whose schema or schema version is not the one this version reads."""

    def __init__(self, message: str, *, expected: str, actual: str) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(message)


class TokenizerError(K700TextError):
    """A tokenizer file that is missing, unreadable or of another size than asked for."""


class LoaderError(K700TextError):
    """A loader process died or did not start, there is no memory for batches, or samples of one batch do not fit."""


class DecodeError(K700TextError):
    """A media file that cannot be decoded; ``path`` names it.

    ``path`` has a default because an error that crosses processes is built again from its text alone.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        self.path = path
        super().__init__(message)


class StorageError(DecodeError):
    """A file of a prepared folder that is missing, shorter than its index says, of another kind or out of reach.

    A damaged record of one clip is a plain DecodeError.
    """
