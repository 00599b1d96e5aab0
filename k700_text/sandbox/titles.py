"""Titles as uploaders write them: most tell what happens, some tell nothing, a few are hostile to careless software."""

from __future__ import annotations

import random

from k700_text.sandbox.scene import Action, Place, Scene, Tempo

_PHRASES: dict[Action, tuple[str, ...]] = {
    Action.SLIDING: ("sliding sideways", "slide left and right", "sideways slider", "sliding side to side"),
    Action.BOUNCING: ("bouncing up and down", "bouncy bouncing", "bounce up and down", "bouncing ball style"),
    Action.CIRCLING: ("circling around", "going round in circles", "circling", "round and round"),
    Action.STANDING: ("standing still", "not moving at all", "standing there motionless", "stand still challenge"),
    Action.PULSING: ("growing and shrinking", "pulsing bigger and smaller", "grows then shrinks", "pulsing"),
    Action.CROSSING: ("crossing diagonally", "diagonal crossing", "corner to corner", "crossing the diagonal"),
    Action.BLINKING: ("blinking on and off", "blinking", "flashing on and off", "blink blink"),
    Action.HOPPING: ("hopping about", "random hops", "hopping here and there", "hopping everywhere"),
    Action.FIGURE_EIGHT: ("skating a figure eight", "figure eight", "figure 8 skating", "skates an eight"),
    Action.SPIRALLING: ("spiralling outwards", "spiral from the centre", "spiralling out", "outward spiral"),
}
_TEMPO: dict[Tempo, tuple[str, ...]] = {
    Tempo.SLOW: ("slowly", "slow", "in slow motion", "very slow"),
    Tempo.MEDIUM: ("steadily", "at an easy pace", "steady", "nice and even"),
    Tempo.FAST: ("fast", "quick", "super fast", "quickly"),
}
_PLACE: dict[Place, tuple[str, ...]] = {
    Place.HIGH: ("up high", "at the top", "high up", "in the sky"),
    Place.LOW: ("down low", "at the bottom", "low on the ground", "on the floor"),
}
_PREFIXES = ("", "", "", "My ", "HD ", "First try: ", "[2012] ", "Lego ", "Watch this! ", "日本 ", "★ ", "Día 3: ")
_SUFFIXES = (
    "",
    "",
    "",
    "!!!",
    " (part 2)",
    " - vlog 17",
    " 😂😂",
    " | школа",
    " #shorts",
    " – Übung",
    " feat. Zoë",
    " HQ",
)
_EMPTY_HANDED = (
    "IMG {number}", "MVI_{number}.AVI", "untitled", "Video {number}", "lol", "test {number}", "{number}",
    "my holiday video", "無題", "🎥", "Новый проект {number}", "DSC{number}", "Untitled project", "NA", "null",
)  # fmt: skip
_HOSTILE = (
    "=cmd|' /C calc'!A0 {phrase}",
    "+1+1 {phrase}",
    "@SUM(A1:A9) {phrase}",
    "<script>alert('{phrase}')</script>",
    "<b>{phrase}</b> &amp; friends &lt;3",
    "What is &nbsp; and &#39; in HTML? {phrase}",
    'Tom & Jerry\'s "{phrase}" </title>',
    "{phrase}\nline two",
    "  {phrase}\t\x07bell\x00 ",
    "مرحبا {phrase} بالعالم",
    "\u202e{phrase}\u202c",
    "שלום {phrase}",
    "Z̸̢a͜l͞g̡o {phrase}",
    "👩‍👩‍👧‍👦🏳️‍🌈 {phrase}",
    "};if window.ytcsi {phrase}",
    "{phrase} - YouTube",
    "../../{phrase},\"quoted\";semi|pipe",
    "{phrase} %s %(title)s {0} $HOME",
)  # fmt: skip
ODD_TITLES = (
    "Private video", "YouTube", "Deleted video", "Video unavailable", "404 Not Found", "- YouTube",
    "Before you continue to YouTube", "Sorry for the interruption",
)  # fmt: skip
"""What pages of the site are called when they show no video; some uploaders call their videos so, too."""

_MAX_TITLE = 100  # YouTube's own limit, characters.


def make_title(rng: random.Random, scene: Scene, *, uninformative: float, hostile: float, empty: float) -> str:
    """Returns a raw title for a scene, as the services spell it.

    Args:
        rng: source of chance.
        scene: what the video shows.
        uninformative: share of titles without a word about the scene.
        hostile: share of titles with markup, formulas, control characters or right-to-left text.
        empty: share of empty titles.
    """
    kind = rng.random()
    if kind < empty:
        return ""
    if kind < empty + uninformative:
        return rng.choice(_EMPTY_HANDED).format(number=rng.randrange(100, 10_000))
    if kind < empty + uninformative + hostile:
        return rng.choice(_HOSTILE).replace("{phrase}", rng.choice(_PHRASES[scene.action]))
    return _plain_title(rng, scene)


def _plain_title(rng: random.Random, scene: Scene) -> str:
    parts = [rng.choice(_PHRASES[scene.action])]
    if rng.random() < 0.9:
        parts.insert(rng.randrange(2), rng.choice(_TEMPO[scene.tempo]))
    if rng.random() < 0.9:
        parts.append(rng.choice(_PLACE[scene.place]))
    title = " ".join(parts)
    style = rng.random()
    if style < 0.3:
        title = title.capitalize()
    elif style < 0.4:
        title = title.upper()
    elif style < 0.6:
        title = title.title()
    title = rng.choice(_PREFIXES) + title + rng.choice(_SUFFIXES)
    if rng.random() < 0.03:
        title = (title + " and then it goes on and on" * 4)[:_MAX_TITLE].rstrip()
    return title
