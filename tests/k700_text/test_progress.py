from __future__ import annotations

import pytest

from k700_text.cli import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_rate_is_that_of_this_run(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.item_progress("probe") as show:
        show(400_000, 480_000)
        clock.now += 20
        show(401_000, 480_000)
        clock.now += 1
        show(401_010, 480_000)
    assert capsys.readouterr().err == "probe: 401000/480000, 50.0/s, ETA 0:26:20\n"


def test_phases_have_a_rate_each(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.phase_progress() as show:
        for phase, seconds in (("probe", 20), ("check", 40)):
            show(phase, 0, 1000)
            clock.now += seconds
            show(phase, 200, 1000)
    assert capsys.readouterr().err == "probe: 200/1000, 10.0/s, ETA 0:01:20\ncheck: 200/1000, 5.0/s, ETA 0:02:40\n"
