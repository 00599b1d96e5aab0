"""Items of the archive that hold a mirrored video: ``/metadata/<item>``."""

from __future__ import annotations

import json
import re
from typing import Any

from k700_text.sandbox.messages import Request, Response
from k700_text.sandbox.scene import seeded
from k700_text.sandbox.world import World

_ITEM = re.compile(r"/metadata/(?P<prefix>youtube-|youtube_|)(?P<id>[^/]{11})")
_MIRRORED = 0.03
_DARK = 0.1


class ArchiveItem:
    """Metadata of items named ``youtube-<ID>``; about 3 % of the videos have one, one in ten of them is hidden."""

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
        values = self._item(found["id"]) if found and found["prefix"] == "youtube-" else {}
        body = json.dumps(values, ensure_ascii=False).encode()
        return Response(200, (("Content-Type", "application/json"), ("Server", "nginx")), body)

    def _item(self, youtube_id: str) -> dict[str, Any]:
        rng = seeded("archive item", self._world.seed, youtube_id)
        if rng.random() >= _MIRRORED:
            return {}
        if rng.random() < _DARK:
            return {"is_dark": True}
        video = self._world.video(youtube_id)
        return {
            "created": 1_600_000_000,
            "metadata": {
                "identifier": f"youtube-{youtube_id}",
                "title": video.title,
                "creator": video.author_name,
                "date": video.published_at.strftime("%Y-%m-%d"),
                "originalurl": f"https://www.youtube.com/watch?v={youtube_id}",
                "mediatype": "movies",
            },
            "files": [{"name": f"{youtube_id}.mp4", "source": "original", "format": "MPEG4"}],
        }
