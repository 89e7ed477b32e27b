"""Where the parameters of evaluated networks come from: predicted, drawn, or given."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.runners import Prepared
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.types import ParamSpec

_HE, _LECUN = 2.0, 1.0


@dataclasses.dataclass(frozen=True)
class Parameters:
    """A source of parameters.

    Attributes:
      of: the parameters of a prepared network, in its runner's form.
      identity: what they are, for files of results; JSON-ready.
      ghn: the hypernetwork that predicts them, None if none does.
    """

    of: Callable[[Prepared], Any]
    identity: Mapping[str, Any]
    ghn: LoadedGHN | None = None


def predicted(ghn: LoadedGHN) -> Parameters:
    """What a hypernetwork predicts; its theta is put on the device once."""
    leaves, structure = jax.tree.flatten(jax.device_get(dict(ghn.theta)))
    leaves = [np.ascontiguousarray(leaf) for leaf in leaves]
    check = functools.reduce(lambda crc, leaf: zlib.crc32(leaf.tobytes(), crc), leaves, 0)
    identity = {"theta_crc32": check, "ghn": ghn.config.to_dict(), "params": "ghn"}
    theta = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])
    there = dataclasses.replace(ghn, theta=theta)
    return Parameters(lambda prepared: prepared.predict(there), identity, there)


def he(seed: int = 0) -> Parameters:
    """He's random parameters (see `he_params`), a baseline; other ones for each network."""
    return _drawn({"params": "random", "params_seed": seed}, seed, _HE)


def lecun(seed: int = 0) -> Parameters:
    """LeCun's random parameters, Flax's default: half the variance of He's."""
    return _drawn({"params": "lecun", "params_seed": seed}, seed, _LECUN)


def _drawn(identity: Mapping[str, Any], seed: int, gain: float) -> Parameters:
    def draw(prepared: Prepared) -> Any:
        net = prepared.net
        own = zlib.crc32(f"{seed}/{net.split}/{net.index}".encode())
        return prepared.pack(initial_params(net, own, gain))

    return Parameters(draw, identity)


def given(params: Callable[[EvalNet], Mapping[str, Any]], name: str) -> Parameters:
    """Parameters that somebody has.

    Args:
      params: those of a network, as its Flax module takes them.
      name: what tells them from others, for files of results.
    """
    return Parameters(lambda prepared: prepared.pack(params(prepared.net)), {"params": name})


def initial_params(net: EvalNet, seed: int, gain: float = _HE) -> Mapping[str, Any]:
    """Random parameters of a network: see `he_params` for a plan, else the module's own."""
    if net.plan is not None:
        return he_params(net.plan, seed, gain)
    module = build_model(net.model or "", net.num_classes, net.image_size)
    images = jnp.zeros((1, net.image_size, net.image_size, 3))
    return jax.jit(module.init)(jax.random.key(seed), images)["params"]


def he_params(plan: Plan, seed: int, gain: float = _HE) -> dict[str, Any]:
    """Random parameters: He's normal kernels, unit norms, zero biases; nested NumPy arrays.

    Args:
      plan: the network.
      seed: of the generator.
      gain: variance of a kernel times its fan-in.
    """
    rng = np.random.default_rng(seed)

    def draw(spec: ParamSpec) -> np.ndarray:
        if spec.role == "kernel":
            deviation = math.sqrt(gain / math.prod(spec.shape[:-1]))
            return deviation * rng.standard_normal(spec.shape, np.float32)
        if spec.role == "pos_enc":
            return rng.standard_normal(spec.shape, np.float32)
        return np.full(spec.shape, float(spec.role == "norm_scale"), np.float32)

    return plan.as_tree(map(draw, plan.params))
