"""What the web archive holds of each video: a pure function of the world and the id, faults included.

Most captures are watch pages as they were. Some are what archives really hold beside them: dead and consent pages,
block pages, archived errors and redirects, pages in another encoding, pages of an id that differs only by case. Each
capture knows whether it tells the video's title, so that the world knows which titles can be recovered at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from k700_text.errors import ConfigError
from k700_text.records import Availability
from k700_text.sandbox.scene import seeded

if TYPE_CHECKING:
    from k700_text.sandbox.world import SandboxVideo

EXTRA_PARAMETERS = "&feature=related"
"""What follows the id in captured addresses that have a key of their own: a question for the plain one misses them."""

SHORT_LINK_PARAMETERS = "&feature=youtu.be"
"""What follows the id in the address to which a short link leads."""

DATA_PARAMETERS = "&pbj=1"
"""What follows the id in the address of the page's data, which is JSON."""

UNKEYED_PARAMETERS = "&gl=US&hl=en"
"""What follows the id in captured addresses that share the key of the plain one, as most do in the real archive."""

_CONSENT_SINCE = datetime(2020, 11, 1, tzinfo=UTC)
_STAMP = "%Y%m%d%H%M%S"
_LAST_YEAR = 9000
_LAST = datetime(2025, 6, 1, tzinfo=UTC)


class CaptureKind(StrEnum):
    """What a capture shows."""

    PAGE = "page"
    """The watch page."""
    WINDOWS_1252 = "windows-1252"
    """The watch page, not in UTF-8."""
    HUGE = "huge"
    """The watch page, 2 to 4 MB of it."""
    DOUBLE_ENCODING = "double-encoding"
    """The watch page, under two Content-Encoding headers, the second of them empty."""
    DEAD = "dead"
    """The page of a video that is gone."""
    CONSENT = "consent"
    """The page that asks for consent in place of the video."""
    SORRY = "sorry"
    """The page that the site showed to the archive's crawler because it came too often."""
    WRONG_ID = "wrong-id"
    """The watch page of the id that differs only by case."""
    NOT_FOUND = "not-found"
    """An archived 404."""
    REDIRECT = "redirect"
    """An archived redirect to the site's start page, of which there is no capture."""
    CIRCLE = "circle"
    """An archived redirect that leads back to itself."""
    MOVED = "moved"
    """An archived redirect to another address of the video, captured a second later."""

    @property
    def has_title(self) -> bool:
        """The capture tells the title of the video that was asked about."""
        return self in _TITLED

    @property
    def status(self) -> int:
        """The status that was archived."""
        return _STATUS.get(self, 200)


_TITLED = frozenset({CaptureKind.PAGE, CaptureKind.WINDOWS_1252, CaptureKind.HUGE, CaptureKind.DOUBLE_ENCODING})
_STATUS = {
    CaptureKind.NOT_FOUND: 404,
    CaptureKind.REDIRECT: 302,
    CaptureKind.CIRCLE: 301,
    CaptureKind.MOVED: 301,
}


class AddressForm(StrEnum):
    """Under which of a video's addresses it was captured."""

    WATCH = "http://www.youtube.com/watch?v={}"
    EMBED = "https://www.youtube.com/embed/{}"
    PLAYER = "http://www.youtube.com/v/{}"
    SHORT_LINK = "https://youtu.be/{}"
    MOBILE = "http://m.youtube.com/watch?v={}"
    OEMBED = "https://www.youtube.com/oembed?url=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{}&format=json"
    OEMBED_OF_HTTP = "http://www.youtube.com/oembed?url=http%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{}&format=json"

    @property
    def is_oembed(self) -> bool:
        """What was captured is an answer of oEmbed."""
        return self in (AddressForm.OEMBED, AddressForm.OEMBED_OF_HTTP)


_LEADS_TO = {
    AddressForm.SHORT_LINK: (AddressForm.WATCH, SHORT_LINK_PARAMETERS),
    AddressForm.PLAYER: (AddressForm.EMBED, ""),
}


class RowForm(StrEnum):
    """How the index lists a capture."""

    PLAIN = "plain"
    REVISIT = "revisit"
    """A page that had not changed: ``warc/revisit``, without a status."""
    BARE = "bare"
    """Neither status nor length."""


DEFAULT_KINDS: Mapping[CaptureKind, float] = MappingProxyType(
    {
        CaptureKind.WINDOWS_1252: 0.01,
        CaptureKind.HUGE: 0.002,
        CaptureKind.DOUBLE_ENCODING: 0.005,
        CaptureKind.SORRY: 0.003,
        CaptureKind.WRONG_ID: 0.005,
        CaptureKind.NOT_FOUND: 0.01,
        CaptureKind.REDIRECT: 0.01,
        CaptureKind.CIRCLE: 0.003,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureShares:
    """How much of the web archive is odd."""

    kinds: Mapping[CaptureKind, float] = field(default_factory=lambda: DEFAULT_KINDS)
    """Share of the captures of living videos that are of each kind; the rest are plain pages."""
    consent: float = 0.05
    """Share of the captures since November 2020 that are consent pages."""
    day_zero: float = 0.005
    """Share of the captures whose time stamp names day 00."""
    revisits: float = 0.03
    """Share of the later captures that the index lists as revisits."""
    bare_rows: float = 0.01
    """Share of the later captures that the index lists without status and length."""
    excluded: float = 0.005
    """Share of the videos whose captures are closed to the public."""
    worded_exclusions: float = 0.0
    """Share of these to which playback says so with words under status 200, instead of 403."""
    extra_parameters: float = 0.0
    """Share of the videos captured only under an address with a further parameter."""
    unkeyed_parameters: float = 0.02
    """Share of the captures of other videos whose address has a further parameter that the key leaves out."""
    case_twins: float = 0.01
    """Share of the videos of which the archive also holds the id that differs only by case, under the same key."""
    other_forms: float = 0.0
    """Share of the videos captured under each of their further addresses."""
    data: float = 0.0
    """Share of the videos whose page's data was captured on its own."""

    def __post_init__(self) -> None:
        rows = (self.day_zero, self.revisits, self.bare_rows, self.unkeyed_parameters)
        videos = (self.excluded, self.worded_exclusions, self.extra_parameters, self.case_twins)
        others = (self.consent, self.other_forms, self.data)
        is_possible = all(0 <= share <= 1 for share in (*rows, *videos, *others, *self.kinds.values()))
        if not is_possible or sum(self.kinds.values()) > 1:
            raise ConfigError("shares of the sandbox archive must be in 0..1, those of the kinds at most 1 together")

    @classmethod
    def hostile(cls) -> CaptureShares:
        """Returns an archive in which most faults meet most crawls."""
        return cls(
            kinds=dict.fromkeys(DEFAULT_KINDS, 0.05) | {CaptureKind.HUGE: 0.01},
            consent=0.3,
            day_zero=0.05,
            revisits=0.2,
            bare_rows=0.1,
            excluded=0.03,
            worded_exclusions=0.5,
            extra_parameters=0.1,
            unkeyed_parameters=0.1,
            case_twins=0.2,
            other_forms=0.1,
            data=0.1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One capture of a video's page, or of what else has its title.

    Attributes:
        youtube_id: the id in the address that was captured.
        parameters: what follows the id in that address.
        captured_at: when (UTC); with day 00 the first of the month.
        stamp: the same in 14 digits, as the archive spells it.
        kind: what it shows.
        row: how the index lists it.
        page_at: which day's page it shows: an earlier capture's for a revisit.
        form: which of the video's addresses was captured.
        leads_to: the address to which an archived redirect leads, where that is another one of the video.
    """

    youtube_id: str
    parameters: str
    captured_at: datetime
    stamp: str
    kind: CaptureKind
    row: RowForm
    page_at: datetime
    form: AddressForm = AddressForm.WATCH
    leads_to: str | None = None

    @property
    def original(self) -> str:
        """The address that was captured."""
        return self.form.format(self.youtube_id) + self.parameters

    @property
    def urlkey(self) -> str:
        """The key of the index: lower-case, so that ids that differ by case share it."""
        return f"com,youtube)/watch?v={self.youtube_id.lower()}{self.key_parameters}"

    @property
    def key_parameters(self) -> str:
        """The part of the parameters that is in the key."""
        return keyed(self.parameters)


class WebArchive:
    """The captures of every video.

    Args:
        seed: the world's.
        shares: how much is odd.
        video: gives the video of an id.
    """

    def __init__(self, seed: int, shares: CaptureShares, video: Callable[[str], SandboxVideo]) -> None:
        self._seed, self._shares, self._video = seed, shares, video

    def captures(self, youtube_id: str) -> tuple[Capture, ...]:
        """Returns the captures under a video's own id, oldest first."""
        video = self._video(youtube_id)
        captures: list[Capture] = []
        for captured_at in video.captures:
            captures.append(self._capture(video, captured_at, captures))
        return tuple(sorted(captures, key=lambda capture: capture.captured_at))

    def other_captures(self, youtube_id: str) -> tuple[Capture, ...]:
        """Returns the captures under the video's further addresses; of each there is one at most."""
        video = self._video(youtube_id)
        captures: list[Capture] = []
        if video.availability is Availability.MALFORMED:
            return ()
        for form in AddressForm:
            if form is not AddressForm.WATCH and self._draw("form", form, youtube_id) < self._shares.other_forms:
                captures += self._other_captures(video, form)
        if self._draw("data", youtube_id) < self._shares.data:
            captures.append(self._other_capture(video, AddressForm.WATCH, self._moment(video, "data"), DATA_PARAMETERS))
        # Two ways may lead to one address: the first capture of it is taken.
        return tuple({capture.original: capture for capture in reversed(captures)}.values())

    def under_key(self, youtube_id: str, form: AddressForm = AddressForm.WATCH) -> tuple[Capture, ...]:
        """Returns all captures that the archive mixes up with those of one of a video's addresses, oldest first."""
        if form is not AddressForm.WATCH:
            return tuple(capture for capture in self.other_captures(youtube_id) if capture.form is form)
        mixed: list[Capture] = []
        for each in filter(None, (youtube_id, self._mixed_up_with(youtube_id))):
            mixed += self.captures(each)
            mixed += (capture for capture in self.other_captures(each) if capture.form is form)
        return tuple(sorted(mixed, key=lambda capture: (capture.captured_at, capture.original)))

    def is_excluded(self, youtube_id: str) -> bool:
        """Tells whether the owner closed the captures to the public; goes by the key, so for both twins."""
        return self._draw("excluded", youtube_id.lower()) < self._shares.excluded

    def exclusion_status(self, youtube_id: str) -> int:
        """Returns under which status playback says that a video's captures are closed to the public."""
        return 200 if self._draw("worded exclusion", youtube_id.lower()) < self._shares.worded_exclusions else 403

    def recoverable_title(self, youtube_id: str) -> str | None:
        """Returns the raw title that some capture tells and anybody may read; None without one."""
        title = self._video(youtube_id).title
        if not title or self.is_excluded(youtube_id):
            return None
        captures = (*self.captures(youtube_id), *self.other_captures(youtube_id))
        return title if any(capture.kind.has_title for capture in captures) else None

    def _mixed_up_with(self, youtube_id: str) -> str | None:
        twin = case_twin(youtube_id)
        is_mixed_up = self._draw("case twins", youtube_id.lower()) < self._shares.case_twins
        return twin if is_mixed_up else None

    def _draw(self, purpose: str, *parts: object) -> float:
        return seeded(purpose, self._seed, *parts).random()

    def _parameters(self, youtube_id: str, stamp: str) -> str:
        if self._draw("extra parameters", youtube_id) < self._shares.extra_parameters:
            return EXTRA_PARAMETERS
        is_unkeyed = self._draw("unkeyed parameters", youtube_id, stamp) < self._shares.unkeyed_parameters
        return UNKEYED_PARAMETERS if is_unkeyed else ""

    def _moment(self, video: SandboxVideo, purpose: str) -> datetime:
        """Returns when another address of a video was captured."""
        span = _LAST - video.published_at
        return (video.published_at + self._draw("moment", purpose, video.youtube_id) * span).replace(microsecond=0)

    def _other_captures(self, video: SandboxVideo, form: AddressForm) -> Iterator[Capture]:
        moment = self._moment(video, form)
        capture = self._other_capture(video, form, moment)
        if form not in _LEADS_TO:
            yield capture
            return
        target_form, parameters = _LEADS_TO[form]
        target = self._other_capture(video, target_form, moment + timedelta(seconds=1), parameters)
        yield replace(capture, kind=CaptureKind.MOVED, leads_to=target.original)
        yield target

    def _other_capture(self, video: SandboxVideo, form: AddressForm, moment: datetime, parameters: str = "") -> Capture:
        # Other odd pages are the watch page's own.
        kind = CaptureKind.PAGE
        if self._kind(video, moment) is CaptureKind.DEAD:
            kind = CaptureKind.NOT_FOUND if form.is_oembed else CaptureKind.DEAD
        return Capture(
            youtube_id=video.youtube_id,
            parameters=parameters,
            captured_at=moment,
            stamp=moment.strftime(_STAMP),
            kind=kind,
            row=RowForm.PLAIN,
            page_at=moment,
            form=form,
        )

    def _capture(self, video: SandboxVideo, moment: datetime, earlier: list[Capture]) -> Capture:
        stamp = moment.strftime(_STAMP)
        if self._draw("day zero", video.youtube_id, stamp) < self._shares.day_zero:
            stamp = f"{stamp[:6]}00{stamp[8:]}"
        kind = self._kind(video, moment)
        row, page_at = RowForm.PLAIN, moment
        # What is hidden from a query for status 200 is never the only capture with the title.
        first_page = next((capture for capture in earlier if capture.kind is CaptureKind.PAGE), None)
        if kind is CaptureKind.PAGE and first_page is not None and first_page.row is RowForm.PLAIN:
            draw = self._draw("row", video.youtube_id, stamp)
            if draw < self._shares.revisits:
                row, page_at = RowForm.REVISIT, first_page.page_at
            elif draw < self._shares.revisits + self._shares.bare_rows:
                row = RowForm.BARE
        return Capture(
            youtube_id=video.youtube_id,
            parameters=self._parameters(video.youtube_id, stamp),
            captured_at=parse_stamp(stamp),
            stamp=stamp,
            kind=kind,
            row=row,
            page_at=page_at,
        )

    def _kind(self, video: SandboxVideo, moment: datetime) -> CaptureKind:
        if video.died_at is not None and moment >= video.died_at:
            return CaptureKind.DEAD
        # Without the seed: every world has always had its consent pages in these places.
        draw = seeded("consent", video.youtube_id, moment).random()
        if moment >= _CONSENT_SINCE and draw < self._shares.consent:
            return CaptureKind.CONSENT
        draw = self._draw("capture", video.youtube_id, moment)
        for kind, share in self._shares.kinds.items():
            draw -= share
            if draw < 0:
                is_possible = kind is not CaptureKind.WRONG_ID or self._may_be_wrong(video.youtube_id)
                return kind if is_possible else CaptureKind.PAGE
        return CaptureKind.PAGE

    def _may_be_wrong(self, youtube_id: str) -> bool:
        # Where two ids share a key, each one's wrong page would be the other one's right one.
        return case_twin(youtube_id) is not None and self._mixed_up_with(youtube_id) is None


def keyed(parameters: str) -> str:
    """Returns the part of an address's parameters that the archive's key keeps."""
    return "" if parameters == UNKEYED_PARAMETERS else parameters


def case_twin(youtube_id: str) -> str | None:
    """Returns the possible id that differs only by the case of one letter, None without one.

    Only the last character cannot be swapped (few characters may stand there). The twin's twin is the id itself.
    """
    for place, character in enumerate(youtube_id[:10]):
        if character.isalpha():
            return youtube_id[:place] + character.swapcase() + youtube_id[place + 1 :]
    return None


def closest(captures: tuple[Capture, ...], timestamp: str) -> Capture:
    """Returns the capture closest to a timestamp of 1 to 14 digits; there is at least one.

    Missing digits are those of the earliest moment (2015 is its first second); less than a year is one of the ends of
    time, so that ``0`` gives the oldest capture and ``2`` the newest.
    """
    if len(timestamp) < 4:
        return captures[-1] if timestamp.startswith("2") else captures[0]
    exact = next((capture for capture in captures if capture.stamp == timestamp), None)
    wanted = parse_stamp(timestamp)
    return exact or min(captures, key=lambda capture: abs(capture.captured_at - wanted))


def parse_stamp(timestamp: str) -> datetime:
    """Returns the moment (UTC) that 4 to 14 digits name; month 00 and day 00, which occur, count as the first."""
    digits = timestamp + "00000101000000"[len(timestamp) :]
    year, month, day = (
        min(max(int(digits[:4]), 1), _LAST_YEAR),
        min(max(int(digits[4:6]), 1), 12),
        max(int(digits[6:8]), 1),
    )
    clock = timedelta(hours=int(digits[8:10]), minutes=int(digits[10:12]), seconds=int(digits[12:14]))
    return datetime(year, month, 1, tzinfo=UTC) + timedelta(days=day - 1) + clock
