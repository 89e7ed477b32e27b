"""Jobs that run at the same time, such as trainings that share their programs."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax

T = TypeVar("T")


def side_by_side(jobs: Sequence[Callable[[], T]], at_once: int) -> list[T]:
    """Runs jobs in threads.

    One network keeps less than two processors busy, and programs are shared by all threads.

    Args:
      jobs: what is run; each starts when one before it is over.
      at_once: how many run at the same time.

    Returns:
      Their results in the order of the jobs.

    Raises:
      ValueError: `at_once` below 1.
      Exception: of the first job that fails; those that have not begun are left out.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, received {at_once}")
    if at_once == 1:
        return [job() for job in jobs]
    x64 = bool(jax.config.read("jax_enable_x64"))  # threads have settings of their own

    def run(job: Callable[[], T]) -> T:
        with jax.enable_x64(x64):
            return job()

    pool = concurrent.futures.ThreadPoolExecutor(at_once, "side-by-side")
    try:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever interrupts waits for nothing
