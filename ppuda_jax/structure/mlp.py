"""The published family of multilayer perceptrons: the width of every layer, or no layer.

Every hidden layer is the identity or a tanh layer of one of several widths. All widths share one
kernel: a layer of width d is its first d columns (Bakhteev's experiment on CIFAR-10 in grey). So a
mixture of widths is one layer whose units are scaled, and costs no more than the widest.

Legend: `n` objects, `D` inputs, `W` the largest width, `K` functions of a layer.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure.family import Structure
from ppuda_jax.structure.supernet import Supernet

WIDTHS = (16, 32, 64, 256, 512, 1024)
"""Units that a layer may have, as published."""


def mlp(inputs: int, classes: int, widths: Sequence[int] = WIDTHS, num_layers: int = 4) -> Supernet:
    """The supernet of perceptrons.

    Args:
      inputs: D.
      classes: outputs.
      widths: of a layer, increasing; function 0 of every layer is the identity.
      num_layers: hidden layers.

    Raises:
      ValueError: widths that do not increase from 1 up, or no inputs, classes or layers.
    """
    for name, value in (("inputs", inputs), ("classes", classes), ("num_layers", num_layers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, received {value}")
    if not widths or widths[0] < 1 or any(a >= b for a, b in itertools.pairwise(widths)):
        raise ValueError(f"widths must increase from 1 or more, received {tuple(widths)}")
    wide = max(inputs, widths[-1])
    edges = [(i, i + 1) for i in range(num_layers)]
    # Row k - 1 marks the units of width k.
    masks = (np.arange(wide)[None] < np.array(widths)[:, None]).astype(np.float32)

    def init(key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, num_layers + 1)
        layers = {f"layer_{i}": _dense(keys[i], wide, wide) for i in range(num_layers)}
        return {**layers, "head": _dense(keys[-1], wide, classes)}

    def units(gamma: jax.Array) -> jax.Array:
        """The weight of every unit, [W]: the sum over the widths that contain it."""
        return gamma[1:] @ masks

    def apply(weights: dict[str, Any], structure: Structure, x: jax.Array) -> jax.Array:
        h = jnp.pad(x, ((0, 0), (0, wide - inputs)))
        for i, edge in enumerate(edges):
            gamma, layer = structure[edge], weights[f"layer_{i}"]
            hidden = jnp.tanh(h @ layer["kernel"] + layer["bias"][None])
            h = hidden * units(gamma)[None] + gamma[0] * h
        return h @ weights["head"]["kernel"] + weights["head"]["bias"][None]

    def scale(weights: dict[str, Any], structure: Structure) -> dict[str, Any]:
        scaled = dict(weights)
        for i, edge in enumerate(edges):
            unit, layer = units(structure[edge]), weights[f"layer_{i}"]
            scaled[f"layer_{i}"] = {
                "kernel": layer["kernel"] * unit[None],
                "bias": layer["bias"] * unit,
            }
        return scaled

    def size(structure: Structure) -> jax.Array:
        return _measure(structure, 1.0)

    def flops(structure: Structure) -> jax.Array:
        return 2 * _measure(structure, 0.0)

    def _measure(structure: Structure, bias: float) -> jax.Array:
        """Entries of all kernels, and of biases."""
        width, total = jnp.asarray(float(inputs)), jnp.zeros(())
        for edge in edges:
            gamma = structure[edge]
            own = gamma[1:] @ np.array(widths, np.float32)
            total = total + (width + bias) * own
            width = own + gamma[0] * width
        return total + (width + bias) * classes

    names = ("identity", *(f"tanh_{d}" for d in widths))
    return Supernet(dict.fromkeys(edges, names), init, apply, size, flops, scale)


def _dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    kernel = inputs**-0.5 * jax.random.normal(key, (inputs, outputs))
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}
