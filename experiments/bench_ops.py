"""Times the executor's instructions one by one, forwards and backwards.

    python -m experiments.bench_ops --size=16 --channels=32
    python -m experiments.bench_ops --torch

Each instruction runs in a loop on changing inputs, as in the executor; the norm that follows most
of them is not part of it. `--torch` times the same operation in PyTorch (an optional package), by
turns. GFLOP/s count matrix products alone; the last line is one matrix product of the size of a 7x7
convolution: the floor for all of them.
"""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

_SIZE = flags.DEFINE_integer("size", 16, "pixels of a side")
_CHANNELS = flags.DEFINE_integer("channels", 32, "channels")
_BATCH = flags.DEFINE_integer("batch_size", 64, "images")
_STRIDE = flags.DEFINE_integer("stride", 1, "1 or 2")
_TORCH = flags.DEFINE_bool("torch", False, "time PyTorch too")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "times that each is measured")
_REPEATS = 6  # runs in one compiled loop

Timed = Callable[[], Any]


def main(argv: list[str]) -> None:
    """Runs the script."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; use --flag=value")
    import jax

    from ppuda_jax.executor.branches import cell_branches

    print(
        f"{jax.default_backend()} ({platform.machine()}), {_BATCH.value} images of {_SIZE.value} "
        f"pixels, {_CHANNELS.value} channels, stride {_STRIDE.value}\n"
    )
    columns = ["operation", "forward, ms", "backward, ms", "forward, GFLOP/s"]
    columns += ["PyTorch, forward", "PyTorch, backward", "ratio of sums"] if _TORCH.value else []
    print(f"| {' | '.join(columns)} |\n|---{'|---' * (len(columns) - 1)}|")
    for branch in cell_branches(_STRIDE.value, False):
        theirs = _torch_operation(branch.name) if _TORCH.value else None
        timed = [*_instruction(branch), *(theirs or ())]
        times = _by_turns(timed)
        pixels = _BATCH.value * (_SIZE.value // _STRIDE.value) ** 2
        rate = 2 * pixels * branch.mats * _CHANNELS.value**2 / times[0] / 1e9
        cells = [
            branch.name,
            *(f"{1e3 * t:.2f}" for t in times[:2]),
            f"{rate:.0f}" if branch.mats and branch.name != "cse" else "",
        ]
        if theirs is not None:
            cells += [
                *(f"{1e3 * t:.2f}" for t in times[2:]),
                f"{sum(times[:2]) / sum(times[2:]):.2f}",
            ]
        cells += [""] * (len(columns) - len(cells))
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nmatrix product: {_product_rate():.0f} GFLOP/s")


def _by_turns(timed: list[Timed]) -> list[float]:
    """Median seconds of each; all in turn in every round."""
    for run in timed:
        run()
    rounds: list[list[float]] = [[] for _ in timed]
    for _ in range(_ROUNDS.value):
        for run, seconds in zip(timed, rounds, strict=True):
            start = time.perf_counter()
            run()
            seconds.append((time.perf_counter() - start) / _REPEATS)
    return [statistics.median(seconds) for seconds in rounds]


def _instruction(branch: Any) -> tuple[Timed, Timed]:
    """An instruction of the executor, forwards and backwards."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from ppuda_jax.executor.branches import pullback

    rng = np.random.default_rng(0)
    size, channels = _SIZE.value, _CHANNELS.value

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    mats, vecs = normal(branch.mats, channels, channels), normal(branch.vecs, channels)
    inputs, gate = normal(2, _BATCH.value, size, size, channels), jnp.ones(())
    output = jax.eval_shape(branch.apply, mats, vecs, inputs[:1], gate)
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
        looped(lambda m, v, x, g: branch.apply(m, v, x, gate)),
        looped(lambda m, v, x, g: pullback(branch)(m, v, x, gate, g)),
    )


def _product_rate() -> float:
    """GFLOP/s of a product with as many operations as a 7x7 convolution."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = _BATCH.value * _SIZE.value**2, 49 * _CHANNELS.value, _CHANNELS.value
    left, right = jnp.ones((rows, inner)), jnp.ones((inner, columns))
    product = jax.jit(jnp.matmul)
    (seconds,) = _by_turns(
        [lambda: jax.block_until_ready([product(left, right) for _ in range(_REPEATS)])]
    )
    return 2 * rows * inner * columns / seconds / 1e9


def _torch_operation(name: str) -> tuple[Timed, Timed] | None:
    """The same operation in PyTorch: forwards alone, and backwards alone; None if it has none."""
    import torch
    from torch import nn

    channels, stride = _CHANNELS.value, _STRIDE.value

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
    x = torch.randn(_BATCH.value, channels, _SIZE.value, _SIZE.value, requires_grad=True)
    output = module(x)
    cotangent, inputs = torch.randn_like(output), [x, *module.parameters()]

    def forwards() -> None:
        for _ in range(_REPEATS):
            module(x)

    def backwards() -> None:
        for _ in range(_REPEATS):
            torch.autograd.grad(output, inputs, cotangent, retain_graph=True)

    return forwards, backwards


if __name__ == "__main__":
    app.run(main)
