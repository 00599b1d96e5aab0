"""The archive's availability API: ``/wayback/available?url=&timestamp=``, the closest good capture or ``{}``."""

from __future__ import annotations

import json

from k700_text.sandbox.captures import Capture, closest, keyed
from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.services.wayback import parse_watch_url
from k700_text.sandbox.world import World

_JSON = ("Content-Type", "application/json")


class WaybackAvailable:
    """Tells of the closest capture with status 200; knows plain watch URLs, as playback does."""

    name = "wayback-available"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path == "/wayback/available"

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id of the watch page asked for."""
        asked = parse_watch_url(request.query.get("url", ""))
        return () if asked is None else (asked.youtube_id,)

    def answer(self, request: Request) -> Response:
        """Returns the capture; ``archived_snapshots`` is empty where there is none."""
        url, timestamp = request.query.get("url", ""), request.query.get("timestamp", "2")
        if not (timestamp.isdecimal() and len(timestamp) <= 14):
            return Response(400, (_JSON,), b'{"error": "bad timestamp"}')
        good = self._good_captures(url)
        values: dict[str, object] = {"url": url, "archived_snapshots": {}}
        if good:
            capture = closest(good, timestamp)
            # The API spells the status as text and the address without encryption.
            values["archived_snapshots"] = {
                "closest": {
                    "status": "200",
                    "available": True,
                    "url": f"http://web.archive.org/web/{capture.stamp}/{capture.original}",
                    "timestamp": capture.stamp,
                }
            }
        return Response(200, (_JSON,), json.dumps(values).encode())

    def _good_captures(self, url: str) -> tuple[Capture, ...]:
        asked = parse_watch_url(url)
        if asked is None or self._world.archive.is_excluded(asked.youtube_id):
            return ()
        captures = self._world.archive.under_key(asked.youtube_id)
        key = keyed(asked.parameters)
        return tuple(each for each in captures if each.kind.status == 200 and each.key_parameters == key)
