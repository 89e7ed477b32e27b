"""Which tensor of a reference checkpoint is which leaf of theta: one table for both directions.

It is made from the configuration, and says which transposition lies between the two.

Legend: `D` node embedding, `O`, `I`, `S` channels and size of the largest block, `C` classes.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.embeddings import channel_sizes, spatial_sizes
from ppuda_jax.primitives import PRIMITIVES


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One tensor in both worlds.

    Attributes:
      torch_name: key in the reference's state dict.
      torch_shape: its shape there.
      path: keys of the leaf in theta.
      split: shape the torch tensor is viewed in before it is transposed.
      perm: order of the axes of `split` that gives the leaf.
    """

    torch_name: str
    torch_shape: tuple[int, ...]
    path: tuple[str, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf of theta."""
        return tuple(self.split[axis] for axis in self.perm)

    def to_leaf(self, tensor: np.ndarray) -> np.ndarray:
        """Torch tensor to leaf."""
        return np.ascontiguousarray(tensor.reshape(self.split).transpose(self.perm))

    def to_torch(self, leaf: np.ndarray) -> np.ndarray:
        """Leaf to torch tensor."""
        return np.ascontiguousarray(leaf.transpose(np.argsort(self.perm))).reshape(self.torch_shape)


def _same(torch_name: str, path: str, shape: tuple[int, ...]) -> Iterator[TensorRow]:
    yield TensorRow(torch_name, shape, tuple(path.split("/")), shape, tuple(range(len(shape))))


def _dense(
    torch_name: str,
    path: str,
    fan_in: int,
    features: tuple[int, ...],
    perm: tuple[int, ...] | None = None,
    conv: bool = False,
) -> Iterator[TensorRow]:
    """Weight and bias of a dense layer (or 1x1 convolution) whose output axis splits in axes.

    `features` are those axes in the reference's order, `perm` their order in theta.
    """
    size, rank = math.prod(features), len(features)
    perm = tuple(range(rank)) if perm is None else perm
    keys = tuple(path.split("/"))
    weight_shape = (size, fan_in, 1, 1) if conv else (size, fan_in)
    split = (*features, fan_in)
    yield TensorRow(f"{torch_name}.weight", weight_shape, (*keys, "kernel"), split, (rank, *perm))
    yield TensorRow(f"{torch_name}.bias", (size,), (*keys, "bias"), features, perm)


def _gru(side: str, path: str, hid: int) -> Iterator[TensorRow]:
    weight = TensorRow(
        f"gnn.gru.weight_{side}", (3 * hid, hid), ("gnn", path, "kernel"), (3 * hid, hid), (1, 0)
    )
    yield weight
    yield from _same(f"gnn.gru.bias_{side}", f"gnn/{path}/bias", (3 * hid,))


def _mlp(torch_name: str, path: str, widths: tuple[int, int, int]) -> Iterator[TensorRow]:
    for index, layer in enumerate((0, 2)):
        fan_in, features = widths[index], widths[index + 1]
        yield from _dense(f"{torch_name}.fc.{layer}", f"{path}/dense_{index}", fan_in, (features,))


def _gnn_rows(config: GHNConfig) -> Iterator[TensorRow]:
    hid = config.hid
    if config.hypernet == "mlp":
        yield from _mlp("gnn", "gnn", (hid, hid, hid))
        return
    width = hid // 2 if config.uses_virtual_edges else hid
    yield from _mlp("gnn.mlp", "gnn/mlp", (hid, width, hid))
    if config.uses_virtual_edges:
        yield from _mlp("gnn.mlp_ve", "gnn/mlp_sp", (hid, width, hid))
    yield from _gru("ih", "gru_input", hid)
    yield from _gru("hh", "gru_hidden", hid)


def _decoder_rows(config: GHNConfig) -> Iterator[TensorRow]:
    hid, classes = config.hid, config.num_classes
    out_size, in_size, height, width = config.max_shape
    ours = "kernel_decoder"
    classes_name = "decoder.class_layer_predictor.1"
    if config.decoder == "mlp":
        yield from _dense("decoder.mlp.fc.0", f"{ours}/dense_0", hid, (2 * hid,))
        block = (out_size, in_size, height, width)
        yield from _dense("decoder.mlp.fc.2", f"{ours}/dense_1", 2 * hid, block, (2, 3, 1, 0))
        yield from _dense(classes_name, f"{ours}/classes", 2 * hid, (classes, in_size))
        return
    taps = (4 * hid, height, width)
    yield from _dense("decoder.fc.0", f"{ours}/taps", hid, taps, (1, 2, 0))
    yield from _dense("decoder.conv.0", f"{ours}/conv_0", 4 * hid, (8 * hid,), conv=True)
    matrix = (out_size, in_size)
    yield from _dense("decoder.conv.2", f"{ours}/conv_1", 8 * hid, matrix, (1, 0), conv=True)
    yield from _dense(classes_name, f"{ours}/classes", out_size, (classes,), conv=True)


def tensor_table(config: GHNConfig) -> tuple[TensorRow, ...]:
    """All tensors of a checkpoint of this configuration."""
    hid, size = config.hid, config.max_shape[0]
    channel_rows = len(channel_sizes(config.num_classes)) + 1
    spatial_rows = len(spatial_sizes(config.max_shape[2])) + 1
    rows: list[TensorRow] = []
    if config.layernorm:
        rows += _same("ln.weight", "layer_norm/scale", (hid,))
        rows += _same("ln.bias", "layer_norm/bias", (hid,))
    rows += _same("embed.weight", "embedding/primitive", (len(PRIMITIVES), hid))
    spatial = (spatial_rows, hid // 4)
    rows += _same("shape_enc.embed_spatial.weight", "embedding/spatial", spatial)
    channel = (channel_rows, hid // 4)
    rows += _same("shape_enc.embed_channel.weight", "embedding/channel", channel)
    rows += _gnn_rows(config)
    rows += _decoder_rows(config)
    rows += _mlp("decoder_1d", "vector_decoder/mlp", (hid, 2 * hid, 2 * size))
    rows += _dense("bias_class.1", "vector_decoder/classes", size, (config.num_classes,))
    return tuple(rows)
