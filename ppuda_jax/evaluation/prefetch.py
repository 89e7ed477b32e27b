"""Prepares the networks that come next while one is evaluated."""

import concurrent.futures
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.programs import NoRoomError

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Prepares the first networks of the coming groups in background threads.

    The threads are daemons: whoever is interrupted does not wait for a compiler.
    """

    def __init__(
        self,
        prepare: Callable[[EvalNet], T],
        nets: Sequence[EvalNet],
        group_of: Callable[[EvalNet], Hashable],
        threads: int,
    ) -> None:
        """Starts nothing yet.

        Args:
          prepare: called once for each network.
          nets: in the order in which they will be asked for, groups behind each other.
          group_of: networks of one group share their programs.
          threads: most networks that are prepared at a time; 0 for none.
        """
        self._prepare, self._threads = prepare, threads
        groups: dict[Hashable, list[EvalNet]] = {}
        for net in nets:
            groups.setdefault(group_of(net), []).append(net)
        self._coming = [group[0] for group in groups.values()]
        self._place = {net: i for i, group in enumerate(groups.values()) for net in group}
        self._started = 0
        self._jobs: dict[EvalNet, concurrent.futures.Future[T]] = {}
        self._slots = threading.Semaphore(max(1, threads))

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs.values():
            job.cancel()
        self._jobs.clear()

    def get(self, net: EvalNet) -> T:
        """A network that is prepared; raises what that raised."""
        if self._threads:
            end = self._place[net] + self._threads + 1
            for coming in self._coming[self._started : end]:
                self._jobs[coming] = self._start(coming)
            self._started = max(self._started, min(end, len(self._coming)))
        job = self._jobs.pop(net, None)
        try:
            return self._prepare(net) if job is None else job.result()
        except NoRoomError:
            # What is prepared ahead holds its programs, and this network comes first.
            self.__exit__()
            return self._prepare(net)

    def _start(self, net: EvalNet) -> concurrent.futures.Future[T]:
        job: concurrent.futures.Future[T] = concurrent.futures.Future()

        def work() -> None:
            with self._slots:
                if job.set_running_or_notify_cancel():
                    try:
                        job.set_result(self._prepare(net))
                    except BaseException as error:  # whoever asks for the result gets it
                        job.set_exception(error)

        threading.Thread(target=work, name=f"prepare {net.name}", daemon=True).start()
        return job
