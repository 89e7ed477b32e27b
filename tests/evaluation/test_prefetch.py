"""Networks are prepared ahead: in which order, without room, and when interrupted."""

import threading
import time

import pytest

from ppuda_jax import evaluation
from ppuda_jax.evaluation.prefetch import Prefetch
from ppuda_jax.programs import NoRoomError


def test_groups_are_prepared_ahead_in_the_order_of_use():
    nets = evaluation.choose_networks("test", 12)
    nets = sorted(nets, key=lambda net: str(net.variant))
    groups, prepared = list(dict.fromkeys(net.variant for net in nets)), []

    def prepare(net):
        prepared.append(net)
        return net.index

    with Prefetch(prepare, nets, lambda net: net.variant, 1) as ahead:
        for net in nets:
            assert ahead.get(net) == net.index
            place = groups.index(net.variant)
            assert {other.variant for other in prepared} <= set(groups[: place + 2])
    assert sorted(n.index for n in prepared) == sorted(n.index for n in nets)  # each once


def test_what_was_prepared_ahead_makes_room_for_the_network_at_hand():
    nets, full = evaluation.choose_networks("predefined"), [True]

    def prepare(net):
        if threading.current_thread() is not threading.main_thread() or full.pop():
            raise NoRoomError("full", 0)
        return net.index

    full[:] = [False, True, False]
    with Prefetch(prepare, nets, lambda net: net, 2) as ahead:
        assert ahead.get(nets[0]) == 0
    with Prefetch(prepare, nets, lambda net: net, 0) as ahead:
        assert ahead.get(nets[1]) == 1


def test_nobody_waits_for_background_threads_when_interrupted():
    nets, go = evaluation.choose_networks("predefined"), threading.Event()

    def prepare(net):
        if net.index:
            go.wait(30)
        return net.index

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Prefetch(prepare, nets, lambda net: net, 1) as ahead:
        ahead.get(nets[0])
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("prepare"))
    go.set()
