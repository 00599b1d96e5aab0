"""Which sources there are, which of them a crawl asks, and how the answer of each is read again."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from k700_text.crawl.sources import SOURCE_NAMES, archive_item, data_api, dumps, oembed, thumbnail, wayback, yt_dlp
from k700_text.crawl.sources.base import Source
from k700_text.crawl.transport import Endpoints
from k700_text.errors import CredentialError, K700TextError, TransportError, UsageError
from k700_text.records import OutcomeStatus, TitleOutcome

# What ``--endpoint`` takes: local files have no address, and the archive's index lives where the archive is.
ENDPOINT_NAMES = tuple(name for name in SOURCE_NAMES if name not in (dumps.NAME, wayback.INDEX_NAME))

_PARSERS: Mapping[str, Callable[[str, bytes, int | None, datetime], TitleOutcome]] = {
    dumps.NAME: dumps.parse_evidence,
    data_api.NAME: data_api.parse_evidence,
    oembed.NAME: oembed.parse_evidence,
    thumbnail.NAME: thumbnail.parse_evidence,
    wayback.NAME: wayback.parse_evidence,
    wayback.INDEX_NAME: wayback.parse_index_evidence,
    archive_item.NAME: archive_item.parse_evidence,
    yt_dlp.NAME: yt_dlp.parse_evidence,
}


def check_source_names(names: Iterable[str], *, known: Sequence[str] = SOURCE_NAMES) -> None:
    """Raises UsageError for the first name that is not a known one, with the nearest that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"unknown source {name!r}: {hint}")


def make_sources(
    names: Sequence[str] | None = None,
    *,
    endpoints: Endpoints | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Source]:
    """Returns the services to ask, in the order of the cascade (``dumps`` are files, no service).

    Args:
        names: which; ``wayback`` stands for both of its sources. None: all that can be used, but ``yt-dlp`` only by
            name and ``data-api`` only with a key; where endpoints are given, only the services that have one, so that
            a trial run never reaches out to the real ones.
        endpoints: where the services are.
        environment: where the API key is looked up; the process environment when None.

    Raises:
        UsageError: an unknown name, or none at all.
        CredentialError: data-api is asked for by name, but there is no key.
    """
    places = endpoints or Endpoints()
    key = (os.environ if environment is None else environment).get(data_api.KEY_VARIABLE, "").strip()
    chosen = _default_names(places, has_key=bool(key)) if names is None else list(names)
    check_source_names(chosen)
    if not chosen:
        raise UsageError(f"no source to ask: name at least one of {', '.join(SOURCE_NAMES)}")
    if data_api.NAME in chosen and not key:
        raise CredentialError(f"source data-api needs an API key: set {data_api.KEY_VARIABLE}, or use another source")
    if wayback.NAME in chosen:
        chosen.append(wayback.INDEX_NAME)
    makers: dict[str, Callable[[], Source]] = {
        data_api.NAME: lambda: data_api.DataApi(key, places.resolve(data_api.NAME, data_api.URL)),
        oembed.NAME: lambda: oembed.OEmbed(places.resolve(oembed.NAME, oembed.URL)),
        thumbnail.NAME: lambda: thumbnail.Thumbnail(places.resolve(thumbnail.NAME, thumbnail.URL)),
        wayback.NAME: lambda: wayback.Wayback(places.resolve(wayback.NAME, wayback.URL)),
        wayback.INDEX_NAME: lambda: wayback.WaybackIndex(
            places.resolve(wayback.NAME, wayback.INDEX_URL), places.resolve(wayback.NAME, wayback.URL)
        ),
        archive_item.NAME: lambda: archive_item.ArchiveItem(places.resolve(archive_item.NAME, archive_item.URL)),
        yt_dlp.NAME: lambda: yt_dlp.YtDlp(places.origin(yt_dlp.NAME)),
    }
    sources = [makers[name]() for name in SOURCE_NAMES if name in chosen and name in makers]
    for source in sources:
        address = places.origin(wayback.NAME if source.name == wayback.INDEX_NAME else source.name)
        # The pauses of another address are not the real host's.
        source.place = f"{source.host} at {address}" if address else source.host
    return sources


def left_out_for_key(names: Sequence[str] | None, *, endpoints: Endpoints) -> Source | None:
    """Returns the source that ``make_sources`` leaves out of its own accord, because there is no key for it, if any."""
    is_wanted = names is None and data_api.NAME in _default_names(endpoints, has_key=True)
    has_key = bool(os.environ.get(data_api.KEY_VARIABLE, "").strip())
    return data_api.DataApi("") if is_wanted and not has_key else None


def _default_names(places: Endpoints, *, has_key: bool) -> list[str]:
    names = [name for name in ENDPOINT_NAMES if name != yt_dlp.NAME and (has_key or name != data_api.NAME)]
    given = [name for name in names if not places.is_own(name)]
    return given or names


def parse_evidence(
    source: str, youtube_id: str, evidence: bytes, http_status: int | None, fetched_at: datetime
) -> TitleOutcome | None:
    """Returns what a kept answer means by today's rules; None where they cannot read it.

    What today's rules take for a word about us, not about the video, becomes a fault: the video is asked about again.
    """
    if source not in _PARSERS:
        return None
    try:
        return _PARSERS[source](youtube_id, evidence, http_status, fetched_at)
    except TransportError:
        return TitleOutcome(
            youtube_id=youtube_id,
            source=source,
            status=OutcomeStatus.TRANSIENT,
            reason="about_us",
            http_status=http_status,
            fetched_at=fetched_at,
            evidence=evidence,
        )
    except (K700TextError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError):
        # Written by an older version in a form of its own, or by whoever filled a merged ledger: the old meaning stays.
        return None
