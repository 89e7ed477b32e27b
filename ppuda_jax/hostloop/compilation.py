"""How the small functions of this package are compiled."""

from collections.abc import Callable
from typing import Any

import jax

# For such functions they take 0.56 of the CPU time of compiling and 0.33 of the memory mappings,
# and the functions themselves 0.92 of their time (100 functions of 12 networks, by turns).
_CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": "1",
}


def jit_small(function: Callable[..., Any], donated: int | tuple[int, ...] = ()) -> Any:
    """`jax.jit` for functions that compile in a fraction of a second; `donated` are arguments."""
    options = _CPU_OPTIONS if jax.default_backend() == "cpu" else None
    return jax.jit(function, donate_argnums=donated, compiler_options=options)
