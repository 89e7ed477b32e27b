"""Functional Flax networks of DeepNets-1M, built from a plan.

`Network(plan).apply({"params": params}, images)` gives logits. Batch norm uses the statistics
of the batch, as the published evaluation does (paper, section 5.1), so there is no state.

Shapes: `B` images, `S` pixels per side, `K` classes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.op_params import op_params
from ppuda_jax.archs.plan import Op, Plan, make_plan
from ppuda_jax.nets import norms, ops
from ppuda_jax.nets.context import DEFAULT, OpContext
from ppuda_jax.types import ParamSpec

_PLAIN = {
    "patch_conv": ops.patch_conv,
    "pos_enc": ops.pos_enc,
    "stem_pool": ops.stem_pool,
    "subsample": ops.subsample,
    "preprocess": ops.conv_norm,
    "factorized_reduce": ops.factorized_reduce,
    "global_pool": ops.global_pool,
    "flatten": ops.flatten,
}

Tree = tuple[tuple[str, Any], ...]
"""Nested pairs (name, subtree or ParamSpec): a hashable picture of a parameter pytree."""


class ParamModule(nn.Module):
    """Declares the parameters of a tree and returns them as nested dictionaries."""

    tree: Tree

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        """Returns name -> array [...] or nested dictionary."""
        return {
            name: self.param(name, _initializer(node), node.shape)
            if isinstance(node, ParamSpec)
            else ParamModule(node, name=name)()
            for name, node in self.tree
        }


def _initializer(spec: ParamSpec) -> nn.initializers.Initializer:
    if spec.role == "kernel":
        return nn.initializers.he_normal()
    if spec.role == "norm_scale":
        return nn.initializers.ones_init()
    return nn.initializers.normal(1.0) if spec.role == "pos_enc" else nn.initializers.zeros_init()


def _param_tree(specs: tuple[ParamSpec, ...], depth: int = 0) -> Tree:
    groups: dict[str, list[ParamSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.path[depth], []).append(spec)
    return tuple(
        (
            name,
            group[0] if len(group[0].path) == depth + 1 else _param_tree(tuple(group), depth + 1),
        )
        for name, group in groups.items()
    )


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier of DARTS for training from scratch.

    Attributes:
      num_classes: K.
      large: whether the images are ImageNet's.
      norm: whether there is batch norm.
      window: size of the average pool.
      context: static choices of its norms.
    """

    num_classes: int
    large: bool
    norm: bool
    window: int
    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a cell's output [B, H, W, C] to logits [B, K]."""

        def norm(y, name):
            if not self.norm:
                return y
            scale = self.param(f"{name}_scale", nn.initializers.ones_init(), y.shape[-1:])
            bias = self.param(f"{name}_bias", nn.initializers.zeros_init(), y.shape[-1:])
            return norms.batch_norm(y, scale, bias, context=self.context)

        stride = 2 if self.large else min(self.window, 3)
        with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer
            x = nn.avg_pool(jax.nn.relu(x), (self.window, self.window), (stride, stride))
        x = norm(nn.Conv(128, (1, 1), use_bias=False, name="conv1")(x), "norm1")
        x = nn.Conv(768, (2, 2), padding="VALID", use_bias=False, name="conv2")(jax.nn.relu(x))
        # The published ImageNet head has no second norm.
        x = jax.nn.relu(x if self.large else norm(x, "norm2"))
        return nn.Dense(self.num_classes, name="classifier")(ops.flatten((), x))


class Network(nn.Module):
    """A DeepNets-1M network.

    Attributes:
      plan: the network's operations.
      drop_path: probability to drop an edge of a cell, in training.
      auxiliary: adds the auxiliary classifier after the second reduction cell, in training.
      context: static choices of its operations: their form, and which images norms look at.
    """

    plan: Plan
    drop_path: float = 0.0
    auxiliary: bool = False
    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        """Runs the network.

        Args:
          images: float [B, S, S, 3], normalised.
          train: switches dropout, drop path (both use the rng "dropout") and the auxiliary
            head on.

        Returns:
          Logits [B, K]; with `auxiliary` and `train` a pair of them.

        Raises:
          ValueError: for images of another size than the plan's.
        """
        size = self.plan.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images must be [B, {size}, {size}, 3], received {images.shape}: "
                "resize them or build the network with another image_size."
            )
        params = {
            name: ParamModule(tree, name=name)() for name, tree in _param_tree(self.plan.params)
        }
        values: dict[int, jax.Array] = {0: images}
        for op in self.plan.ops:
            values[op.output] = self._apply_op(op, params, values, train)
        logits = values[self.plan.ops[-1].output]
        if not (self.auxiliary and train):
            return logits
        return logits, self._auxiliary_head()(values[self._auxiliary_value()])

    def _apply_op(
        self, op: Op, params: Any, values: Mapping[int, jax.Array], train: bool
    ) -> jax.Array:
        if op.kind == "sum":
            return ops.sum_maps([values[i] for i in op.inputs])
        if op.kind == "concat":
            zeros = jnp.zeros_like(values[op.inputs[0]])
            return jnp.concatenate(
                [zeros if slot is None else values[slot] for slot in op.concat_slots], axis=-1
            )
        x = values[op.inputs[0]]
        leaves = [
            functools.reduce(lambda tree, key: tree[key], spec.path, params)
            for spec in op_params(op)
        ]
        if op.kind == "stem_conv":
            return ops.stem_conv(leaves, x, stride=op.stride, relu=op.relu, context=self.context)
        if op.kind == "dense":
            if op.relu:
                x = jax.nn.relu(x)
                x = ops.head_dropout(self.make_rng("dropout"), x) if train else x
            return ops.dense(leaves, x)
        if op.kind in _PLAIN:
            y = _PLAIN[op.kind](leaves, x, context=self.context)
        else:
            y = ops.CELL_OPS[op.kind](leaves, x, stride=op.stride, context=self.context)
        if train and self.drop_path > 0 and "._ops." in op.name:
            y = ops.drop_path(self.make_rng("dropout"), y, self.drop_path)
        return y

    def _auxiliary_value(self) -> int:
        last = 2 * self.plan.config.n_cells // 3
        return max(op.output for op in self.plan.ops if op.cell <= last)

    def _auxiliary_head(self) -> AuxiliaryHead:
        config, large = self.plan.config, self.plan.image_size == 224
        halved = config.stem_type == 1 or config.stem_pool
        return AuxiliaryHead(
            self.plan.num_classes,
            large,
            config.norm is not None,
            2 if halved and not large else 5,
            self.context,
            name="auxiliary_head",
        )


def build_network(
    net_args: Mapping[str, Any], num_classes: int = 10, image_size: int = 32
) -> Network:
    """Builds the Flax network of a DeepNets-1M record.

    Args:
      net_args: a record of the DeepNets-1M meta files, with its width "C".
      num_classes: K.
      image_size: S, 32 or 224.

    Returns:
      The network; `apply({"params": params}, images [B, S, S, 3])` gives logits [B, K].

    Raises:
      ValueError: for unknown or missing keys, or another image size.

    Examples:
      >>> import jax
      >>> import ppuda_jax as pj
      >>> from ppuda_jax.archs.sampling import arch_at
      >>> network = pj.build_network(arch_at("test", 0).to_dict())
      >>> images = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(network.init, jax.random.key(0), images)
      >>> jax.eval_shape(network.apply, variables, images).shape
      (2, 10)
    """
    return Network(make_plan(NetConfig.from_dict(net_args), num_classes, image_size))
