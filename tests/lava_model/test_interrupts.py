"""Signals are noted; only a second Ctrl-C interrupts."""

from __future__ import annotations

import signal

import pytest

from lava_model.interrupts import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted_and_a_second_ctrl_c_interrupts(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        assert stop.signal_name is None
        signal.raise_signal(number)
        assert stop.signal_name == number.name
        # A scheduler may send more than one before it kills; the checkpoint that is being written must not be lost.
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before
    told = capfd.readouterr().err
    assert told.startswith("stopping: this step is finished and saved") and told.count("\n") == 1
