"""What the tests of the sandbox share: a client that hides nothing, and the addresses of the services."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any
from urllib.parse import quote

from k700_text.records import Availability
from k700_text.sandbox.world import SandboxVideo, World


class Reply:
    """One answer as it came."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.json()["error"]["errors"][0]["reason"])


class Client:
    """One connection that is kept alive; a keyword is a header."""

    def __init__(self, port: int, timeout: float = 10) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def __call__(self, target: str, method: str = "GET", **headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, target, headers=names)
            with self._connection.getresponse() as response:
                return Reply(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()


class Videos:
    """The first videos of a world, to pick from."""

    def __init__(self, world: World, number: int, purpose: str = "server tests") -> None:
        self.all = [world.video(youtube_id) for youtube_id in islice(world.random_ids(purpose), number)]

    def first(self, accepts: Callable[[SandboxVideo], object]) -> SandboxVideo:
        return next(video for video in self.all if accepts(video))

    def in_state(self, availability: Availability) -> SandboxVideo:
        return self.first(lambda video: video.availability is availability)


def watch(youtube_id: str) -> str:
    return f"https://www.youtube.com/watch?v={youtube_id}"


def oembed(url: str, **more: str) -> str:
    return f"/oembed?url={quote(url, safe='')}&format=json" + "".join(f"&{key}={value}" for key, value in more.items())


def api(*ids: str, **more: str) -> str:
    parameters = {"part": "snippet,contentDetails,status", "key": "k", "prettyPrint": "false", **more}
    return f"/youtube/v3/videos?id={','.join(ids)}" + "".join(
        f"&{name}={quote(value, safe='')}" for name, value in parameters.items()
    )


def memento(youtube_id: str, timestamp: str, parameters: str = "") -> str:
    return f"/web/{timestamp}id_/http://www.youtube.com/watch?v={youtube_id}{parameters}"


def cdx(youtube_id: str, *more: tuple[str, str]) -> str:
    pairs: Iterable[tuple[str, str]] = (("url", watch(youtube_id)), ("output", "json"), *more)
    return "/cdx/search/cdx?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
