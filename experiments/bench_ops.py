"""Times the executor's instructions one by one, forwards and backwards.

    python -m experiments.bench_ops --size=16 --channels=32
    python -m experiments.bench_ops --torch

Each instruction runs in a loop on changing inputs, as in the executor; the norm that follows most
of them is not part of it. `--torch` times the same operation in PyTorch (an optional package), by
turns. GFLOP/s count matrix products alone; the last line is one matrix product of the size of a 7x7
convolution: the floor for all of them.
"""

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from experiments import flags
from ppuda_jax.config import check_types, described

_REPEATS = 6  # runs in one compiled loop

Timed = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    size: int = described(16, "pixels of a side")
    channels: int = described(32, "channels")
    batch_size: int = described(64, "images")
    stride: Literal[1, 2] = described(1, "of the operations")
    torch: bool = described(False, "time PyTorch too")
    rounds: int = described(5, "times that each is measured")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("size", "channels", "batch_size", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")


def run(options: BenchConfig) -> str:
    """Times every instruction; returns a table."""
    import jax

    from ppuda_jax.executor.branches import cell_branches

    columns = ["operation", "forward, ms", "backward, ms", "forward, GFLOP/s"]
    columns += ["PyTorch, forward", "PyTorch, backward", "ratio of sums"] if options.torch else []
    rows = []
    for branch in cell_branches(options.stride, False):
        theirs = _torch_operation(branch.name, options) if options.torch else None
        times = _by_turns([*_instruction(branch, options), *(theirs or ())], options.rounds)
        pixels = options.batch_size * (options.size // options.stride) ** 2
        rate = 2 * pixels * branch.mats * options.channels**2 / times[0] / 1e9
        cells = [branch.name, *(f"{1e3 * t:.2f}" for t in times[:2])]
        cells.append(f"{rate:.0f}" if branch.mats and branch.name != "cse" else "")
        if theirs is not None:
            cells += [f"{1e3 * t:.2f}" for t in times[2:]]
            cells.append(f"{sum(times[:2]) / sum(times[2:]):.2f}")
        rows.append(cells + [""] * (len(columns) - len(cells)))
    title = (
        f"{jax.default_backend()} ({platform.machine()}), {options.batch_size} images of "
        f"{options.size} pixels, {options.channels} channels, stride {options.stride}"
    )
    product = f"matrix product: {_product_rate(options):.0f} GFLOP/s"
    return flags.report(flags.table(columns, rows, title), product)


def _by_turns(timed: list[Timed], count: int) -> list[float]:
    """Median seconds of each; all in turn in every round."""
    for run in timed:
        run()
    rounds: list[list[float]] = [[] for _ in timed]
    for _ in range(count):
        for run, seconds in zip(timed, rounds, strict=True):
            start = time.perf_counter()
            run()
            seconds.append((time.perf_counter() - start) / _REPEATS)
    return [statistics.median(seconds) for seconds in rounds]


def _instruction(branch: Any, options: BenchConfig) -> tuple[Timed, Timed]:
    """An instruction of the executor, forwards and backwards."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from ppuda_jax.executor.branches import pullback
    from ppuda_jax.nets.context import DEFAULT

    rng = np.random.default_rng(0)
    size, channels = options.size, options.channels

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    mats, vecs = normal(branch.mats, channels, channels), normal(branch.vecs, channels)
    inputs, gate = normal(2, options.batch_size, size, size, channels), jnp.ones(())
    output = jax.eval_shape(branch.apply, mats, vecs, inputs[:1], gate, DEFAULT)
    cotangent = normal(*output.shape)

    def looped(one: Callable[..., Any]) -> Timed:
        def run(mats, vecs, inputs, cotangent):
            def body(i, total):
                x = lax.dynamic_slice_in_dim(inputs, i % 2, 1)
                return jax.tree.map(jnp.add, total, one(mats, vecs, x, cotangent))

            shapes = jax.eval_shape(one, mats, vecs, inputs[:1], cotangent)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            return lax.fori_loop(0, _REPEATS, body, zeros)

        compiled = jax.jit(run)
        return lambda: jax.block_until_ready(compiled(mats, vecs, inputs, cotangent))

    return (
        looped(lambda m, v, x, g: branch.apply(m, v, x, gate, DEFAULT)),
        looped(lambda m, v, x, g: pullback(branch, DEFAULT)(m, v, x, gate, g)),
    )


def _product_rate(options: BenchConfig) -> float:
    """GFLOP/s of a product with as many operations as a 7x7 convolution."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = (
        options.batch_size * options.size**2,
        49 * options.channels,
        options.channels,
    )
    left, right = jnp.ones((rows, inner)), jnp.ones((inner, columns))
    product = jax.jit(jnp.matmul)
    (seconds,) = _by_turns(
        [lambda: jax.block_until_ready([product(left, right) for _ in range(_REPEATS)])],
        options.rounds,
    )
    return 2 * rows * inner * columns / seconds / 1e9


def _torch_operation(name: str, options: BenchConfig) -> tuple[Timed, Timed] | None:
    """The same operation in PyTorch: forwards alone, and backwards alone; None if it has none."""
    import torch
    from torch import nn

    channels, stride = options.channels, options.stride

    def conv(height: int, width: int, steps: tuple[int, int], dilation: int = 1, groups: int = 1):
        padding = (height // 2 * dilation, width // 2 * dilation)
        return nn.Conv2d(
            channels, channels, (height, width), steps, padding, dilation, groups, bias=False
        )

    def separable(k: int, step: int, dilation: int = 1):
        return [nn.ReLU(), conv(k, k, (step, step), dilation, channels), conv(1, 1, (1, 1))]

    def make() -> nn.Module | None:
        kind, _, last = name.rpartition("_")
        k = int(last[0]) if last[0].isdigit() else 0
        if name == "conv_7x1_1x7":
            return nn.Sequential(nn.ReLU(), conv(1, 7, (1, stride)), conv(7, 1, (stride, 1)))
        if kind == "conv":
            return nn.Sequential(nn.ReLU(), conv(k, k, (stride, stride)))
        if kind == "sep_conv":
            return nn.Sequential(*separable(k, stride), nn.BatchNorm2d(channels), *separable(k, 1))
        if kind == "dil_conv":
            return nn.Sequential(*separable(k, stride, 2))
        if kind == "max_pool":
            return nn.MaxPool2d(3, stride, 1)
        if kind == "avg_pool":
            return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return None

    module = make()
    if module is None:
        return None
    x = torch.randn(options.batch_size, channels, options.size, options.size, requires_grad=True)
    output = module(x)
    cotangent, inputs = torch.randn_like(output), [x, *module.parameters()]

    def forwards() -> None:
        for _ in range(_REPEATS):
            module(x)

    def backwards() -> None:
        for _ in range(_REPEATS):
            torch.autograd.grad(output, inputs, cotangent, retain_graph=True)

    return forwards, backwards


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
