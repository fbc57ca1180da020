"""Signals wait while something is written, and only then."""

import os
import signal

import pytest

from mosso.cli.interrupt import SIGNALS, Interruptible


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_a_held_stretch_at_once(number):
    after = False
    with pytest.raises(KeyboardInterrupt), Interruptible():
        os.kill(os.getpid(), number)
        after = True
    assert not after


@pytest.mark.parametrize("number", SIGNALS)
def test_inside_a_held_stretch_at_its_end(number):
    finished = after = False
    with pytest.raises(KeyboardInterrupt), Interruptible() as interruptible:
        with interruptible.held():
            os.kill(os.getpid(), number)
            finished = True
        after = True
    assert finished
    assert not after


def test_an_error_inside_a_held_stretch_is_not_swallowed():
    with pytest.raises(OSError, match="disk full"), Interruptible() as interruptible, interruptible.held():
        raise OSError("disk full")


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruptible():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
