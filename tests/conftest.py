"""Settings of the whole test run, stricter than any user's: they come before JAX is imported."""

import gc
import os
import pathlib
import socket

from ppuda_jax.runtime.memory import mapping_limit, mappings
from ppuda_jax.runtime.processors import processors

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Fusion emitters make better loops of what is fused, and compiling takes almost twice as long.
# Code in 32 parts is for 32 threads that compile; to split it takes an eighth of compiling.
_FORCED = (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
_GIVEN = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([*_GIVEN, *(flag for flag in _FORCED if flag not in _GIVEN)])
# Workers, processes that tests start, and later runs find each other's programs. XLA:CPU compiles
# for the processors that it sees, so each number of them has a folder.
_CACHE = pathlib.Path(__file__).parents[1] / ".jax_cache" / f"tests-processors-{processors()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Compiling is most of the suite's time, and what is computed is small.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

from ppuda_jax.ghn import triangular  # noqa: E402
from ppuda_jax.programs import PROGRAMS  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# A sweep of the GHN that is not unrolled compiles in two thirds of the time.
triangular.UNROLL = 1


def pytest_collection_finish() -> None:
    """Spares the collector of garbage what stays to the end: modules, tests, JAX."""
    gc.collect()
    gc.freeze()
    # Tracing allocates much and leaves hardly any cycles: the usual 700 looks too often.
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs() -> None:
    """Near the limit of mappings each small program would have to wait for a collection."""
    limit = mapping_limit()
    if limit is not None and mappings() > limit / 2:
        PROGRAMS.clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails at once; this machine and sockets by name work."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):
            raise OSError(f"tests have no network, received a connection to {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
