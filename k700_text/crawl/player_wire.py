"""Sends what yt-dlp asks for: to one host, within bounds, and with a look at every answer before yt-dlp sees it.

What to ask is decided by yt-dlp, how it is asked is decided here. Only the site's own host is asked (or the endpoint in
its place), no redirect to another host is followed, and a rate limit, block page or fault ends the video's turn.
Once an answer asks for a person, or is about another video, nothing more is sent: yt-dlp is told 403, so that it makes
do with what it has instead of asking again as another client. Cookies are those of one guest session, in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request

from k700_text.crawl.messages import classify
from k700_text.crawl.page_text import is_answer, parse_answer
from k700_text.crawl.sources.base import FAULT_STATUSES, MAX_REDIRECTS, RATE_LIMIT_STATUSES, retry_after
from k700_text.crawl.transport import Response, Transport, host_of, is_block_page, local_redirect
from k700_text.errors import BlockedError, RateLimitedError, TransportError

HOST = "www.youtube.com"

_PAGE_JSON = re.compile(r"\b(?:ytInitialPlayerResponse|ytInitialData)(?:[\"']\])?\s*=\s*(?=\{)")
_BLOCK_WORDS = (b"unusual traffic", b'action="/sorry', b'id="captcha-form"', b"before you continue to youtube")


class PlayerWire:
    """The only way of yt-dlp to the web.

    Args:
        origin: ``scheme://host[:port]`` to ask instead of the site's host; None asks the site.
        cookies: yt-dlp's cookies of this session.
        transport: sends the requests: its bounds hold for them, too.

    Attributes:
        failure: what ended this video's turn.
        check: what the player said about us instead of the video; empty where it said nothing of the kind.
        video_ids: the videos that the site's answers were about, by the ids in their structured parts.
        statuses: the player's statuses in the answers (``OK``, ``LOGIN_REQUIRED``, ...), in their order.
        is_described: an answer gave the title of this very video beside the player's status.
    """

    def __init__(self, origin: str | None, cookies: CookieJar, transport: Transport) -> None:
        self._origin = None if origin is None else urlsplit(origin)
        self._cookies = cookies
        self._transport = transport
        self.start("")

    def start(self, youtube_id: str) -> None:
        """Begins a video: forgets what was noted about the last one."""
        self._youtube_id = youtube_id
        self.failure: TransportError | None = None
        self.check = ""
        self.video_ids: set[str] = set()
        self.statuses: list[str] = []
        self.is_described = False

    def send(self, url: str, *, method: str, data: bytes | None, headers: Mapping[str, str]) -> Response:
        """Returns the answer to one request of yt-dlp, whatever a status below 500 says.

        Args:
            url: where yt-dlp wants to ask.
            method: ``GET``, ``POST``, ...
            data: what is posted.
            headers: what yt-dlp adds to the usual ones; its User-Agent, where it names one, goes before ours.

        Raises:
            RateLimitedError, BlockedError, TransportError: see the module; raised for all further requests, too.
        """
        if self.failure is not None:
            raise self.failure
        if self.check or self.video_ids - {self._youtube_id}:
            return Response(403, {}, b"", 0.0)
        try:
            response = self._follow(url, method, data, headers)
            _raise_if_refused(response, is_page=method == "GET")
        except TransportError as error:
            self.failure = error
            raise
        self._note(response)
        return response

    def _follow(self, url: str, method: str, data: bytes | None, headers: Mapping[str, str]) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(url, method, data, headers)
            target = local_redirect(url, response)
            if target is None:
                return response
            url = target
        raise TransportError(f"{HOST} redirects in a circle", host=HOST)

    def _send(self, url: str, method: str, data: bytes | None, headers: Mapping[str, str]) -> Response:
        if host_of(url) != HOST:
            raise TransportError(f"yt-dlp wants to ask {host_of(url)}, which is not {HOST}", host=HOST)
        # Cookies belong to the host asked for, whichever answers in its place.
        original = Request(url)
        self._cookies.add_cookie_header(original)
        all_headers = {
            "Accept-Language": "en-us,en;q=0.5",
            **headers,
            **original.unredirected_hdrs,
            "Accept-Encoding": "gzip",
        }
        response = self._transport.send(self._place(url), method=method, data=data, headers=all_headers)
        self._cookies.extract_cookies(_Cookies(response.set_cookies), original)  # type: ignore[arg-type]  # the two methods it asks for
        return response

    def _place(self, url: str) -> str:
        if self._origin is None:
            return url
        return urlunsplit((self._origin.scheme, self._origin.netloc, *urlsplit(url)[2:]))

    def _note(self, response: Response) -> None:
        for part in _json_parts(response):
            details, endpoint, state = (
                part.get(name) for name in ("videoDetails", "currentVideoEndpoint", "playabilityStatus")
            )
            watch = endpoint.get("watchEndpoint") if isinstance(endpoint, dict) else None
            named = [each.get("videoId") for each in (details, watch) if isinstance(each, dict)]
            self.video_ids.update(each for each in named if isinstance(each, str))
            if isinstance(details, dict) and details.get("videoId") == self._youtube_id and details.get("title"):
                self.is_described = True
            if isinstance(state, dict):
                self.statuses.append(str(state.get("status")))
                self.check = self.check or _check(state)


def _check(state: Mapping[str, Any]) -> str:
    """Returns the player's words where they are about us, else an empty text."""
    if "playerCaptchaViewModel" in json.dumps(state):
        return "captcha challenge"
    words = ". ".join(_shown_texts(state))
    return " ".join(words.split()) if classify(words).kind.stops_host else ""


def _shown_texts(value: object) -> Iterator[str]:
    """Yields the texts that a part of an answer shows; one that is cut into runs is one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _shown_texts(each)
    elif isinstance(value, dict):
        runs = value.get("runs")
        if isinstance(runs, list):
            yield "".join(str(run.get("text", "")) for run in runs if isinstance(run, dict))
        for name, each in value.items():
            if name != "runs":
                yield from _shown_texts(each)


class _Cookies:
    """What a cookie jar wants to see of an answer."""

    def __init__(self, values: Iterable[str]) -> None:
        self._message = Message()
        for value in values:
            self._message["Set-Cookie"] = value

    def info(self) -> Message:
        """Returns the headers."""
        return self._message


def _raise_if_refused(response: Response, *, is_page: bool) -> None:
    """Raises for answers that are about us or about the server, not about the video."""
    if response.status in RATE_LIMIT_STATUSES:
        raise RateLimitedError(
            f"{HOST} asks to slow down (status {response.status})", host=HOST, retry_after_seconds=retry_after(response)
        )
    # A redirect that is left here leads to another host.
    if 300 <= response.status < 400 or _is_block(response, is_page=is_page):
        raise BlockedError(f"{HOST} shows a block page (status {response.status})", host=HOST)
    if response.status in FAULT_STATUSES:
        raise TransportError(f"{HOST} has a fault (status {response.status})", host=HOST)


def _is_block(response: Response, *, is_page: bool) -> bool:
    """Tells a page for people who look like machines from the watch page, and from the calls' JSON."""
    if not is_page:
        return is_block_page(response)
    body = response.body.lower()
    return b"ytinitialplayerresponse" not in body and any(words in body for words in _BLOCK_WORDS)


def _json_parts(response: Response) -> Iterator[dict[str, Any]]:
    """Yields the site's structured answers: the JSON of a call, or what the page holds of it."""
    text = response.body.decode("utf-8-sig", "replace")
    # A call's answer may begin with a guard against other sites' scripts, and be a list of parts.
    answers = [parse_answer(text)] if is_answer(text) else _parts_of_page(text)
    for part in (part for answer in answers for part in (answer if isinstance(answer, list) else [answer])):
        if isinstance(part, dict):
            yield part


def _parts_of_page(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder()
    for found in _PAGE_JSON.finditer(text):
        try:
            yield decoder.raw_decode(text, found.end())[0]
        except (ValueError, RecursionError):
            continue
