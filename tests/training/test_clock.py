"""Progress and stops."""

import os
import signal
import threading
import time

from ppuda_jax.training.clock import Clock
from tests.training import toy


def test_progress_follows_the_steps():
    clock = Clock(toy.settings(), total_steps=10, elapsed_before=1e6)
    assert clock.progress(0) == 0.0 and clock.progress(5) == 0.5
    assert clock.stop_reason(9) is None and clock.stop_reason(10) == "finished"


def test_progress_follows_the_time_where_it_is_further():
    clock = Clock(toy.settings(time_limit_s=1000.0), 10, elapsed_before=600.0)
    assert abs(clock.progress(1) - 0.6) < 0.01 and clock.progress(9) == 0.9
    assert clock.stop_reason(1) is None
    assert Clock(toy.settings(time_limit_s=5.0), 10, 6.0).stop_reason(1) == "time limit"
    assert Clock(toy.settings(time_limit_s=5.0), 10, 6.0).progress(1) == 1.0


def test_signals_stop_and_handlers_are_put_back():
    clock = Clock(toy.settings(), 10, 0.0)
    before = signal.getsignal(signal.SIGTERM)
    with clock.catching_signals():
        clock.start_training()
        os.kill(os.getpid(), signal.SIGTERM)
        assert clock.stop_reason(1) == "signal"
        assert signal.getsignal(signal.SIGTERM) == before  # the next one ends the process
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body():
        with Clock(toy.settings(), 10, 0.0).catching_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]


def test_pauses_and_start_up_are_no_training_time():
    clock = Clock(toy.settings(), 10, elapsed_before=5.0)
    time.sleep(0.2)
    assert clock.elapsed() == 5.0
    clock.start_training()
    with clock.paused():
        time.sleep(0.2)
    started = time.monotonic()
    time.sleep(0.05)
    assert 5.05 <= clock.elapsed() < 5.1 + time.monotonic() - started
