"""Interrupts as a question between iterations."""

import signal
import threading
import time

import pytest

from autoseg.train import signals
from autoseg.train.signals import stop_requested

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_interrupt_is_a_flag(number):
    with stop_requested() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()


def test_the_second_interrupt_ends_at_once():
    # A shell that starts the tests in the background has them ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_requested():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_sigterm_at_once_is_the_same_request(monkeypatch):
    monkeypatch.setattr(signals, "SAME_REQUEST_SECONDS", 0.05)
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("ends"))
    try:
        with stop_requested() as stopped:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert stopped()
            assert not came
            time.sleep(0.1)
            signal.raise_signal(signal.SIGTERM)
            assert came
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("interrupted", [True, False])
def test_afterwards_signals_do_what_they_did(interrupted):
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_requested():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        if interrupted:
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_nobody_asks():
    answers = []

    def work():
        with stop_requested() as stopped:
            answers.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
