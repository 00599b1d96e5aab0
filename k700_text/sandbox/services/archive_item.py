"""Items of the archive that hold a mirrored video: ``/metadata/<item>``."""

from __future__ import annotations

import json
import re
from typing import Any

from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.mirrors import Mirror
from k700_text.sandbox.world import World

_ITEM = re.compile(r"/metadata/(?P<item>(?:youtube-|youtube_|)(?P<id>[^/]{11}))")


class ArchiveItem:
    """Metadata of items named after a video, in one of three forms; some are hidden, some have a list for a title."""

    name = "archive-item"

    def __init__(self, world: World) -> None:
        self._world = world

    def owns(self, path: str) -> bool:
        """Tells whether a path belongs to this service."""
        return path.startswith("/metadata/")

    def youtube_ids(self, request: Request) -> tuple[str, ...]:
        """Returns the id in the item's name."""
        found = _ITEM.fullmatch(request.path)
        return (found["id"],) if found else ()

    def answer(self, request: Request) -> Response:
        """Returns the item, or ``{}`` with status 200 where there is none."""
        found = _ITEM.fullmatch(request.path)
        mirror = self._world.mirror(found["id"]) if found else None
        values: dict[str, Any] = {}
        if found and mirror and mirror.item == found["item"]:
            values = {"is_dark": True} if mirror.is_dark else self._item(found["id"], mirror)
        body = json.dumps(values, ensure_ascii=False).encode()
        return Response(200, (("Content-Type", "application/json"), ("Server", "nginx")), body)

    def _item(self, youtube_id: str, mirror: Mirror) -> dict[str, Any]:
        shown = next(self._world.random_ids(f"foreign {youtube_id}")) if mirror.is_foreign else youtube_id
        video = self._world.video(shown)
        return {
            "created": 1_600_000_000,
            "metadata": {
                "identifier": mirror.item,
                "title": [video.title, f"{video.title} (mirror)"] if mirror.has_title_list else video.title,
                "creator": video.author_name,
                "date": video.published_at.strftime("%Y-%m-%d"),
                "originalurl": f"https://www.youtube.com/watch?v={shown}",
                "mediatype": "movies",
            },
            "files": [{"name": f"{shown}.mp4", "source": "original", "format": "MPEG4"}],
        }
