"""A data set that fails, in a module that loads next to nothing: loader processes import it anew."""

from __future__ import annotations

import os

from k700_text.errors import DecodeError


class Undecodable:
    """Samples that fail as a clip in a worker does, or take their process with them."""

    def __init__(self, is_fatal=False):
        self.is_fatal = is_fatal

    def __len__(self):
        return 4

    def __getitem__(self, item):
        if self.is_fatal:
            os._exit(1)
        raise DecodeError("11 of 12 clips do not decode: a.mp4: bad", path="a.mp4")
