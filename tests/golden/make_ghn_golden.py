"""Makes ghn_golden.npz and ghn_golden.json from the PyTorch reference (not run by the tests).

Usage: python tests/golden/make_ghn_golden.py <checkout of facebookresearch/ppuda> <peer folder>

Small hypernetworks with random weights (rounded to float16, which is how they are stored)
predict the parameters of three networks through the reference's own `GHN.forward`. Its graph
tracing and network classes are not involved: graphs come from the peer folder, and modules that
only hold parameters of the right shape take the predictions. Stored per tensor: its norm and 16
of its entries.
"""

import json
import pathlib
import sys
import types

import numpy as np
import torch

CONFIGS = {
    "ghn2": {
        "max_shape": (16, 16, 11, 11),
        "hid": 8,
        "weight_norm": True,
        "ve": True,
        "layernorm": True,
    },
    "ghn1": {"max_shape": (8, 8, 3, 3), "hid": 4},
    "mlp": {
        "max_shape": (8, 8, 3, 3),
        "hid": 4,
        "weight_norm": True,
        "ve": True,
        "layernorm": True,
        "hypernet": "mlp",
    },
    "mlp_decoder": {
        "max_shape": (8, 8, 3, 3),
        "hid": 4,
        "weight_norm": True,
        "ve": True,
        "layernorm": True,
        "decoder": "mlp",
    },
}
CASES = [("ghn2", 4), ("ghn2", 6), ("ghn1", 3), ("mlp", 3), ("mlp_decoder", 3)]
ENTRIES = 16


def import_reference(path):
    """The reference's GHN, norm-layer and positional-encoding classes, without torchvision."""
    for name in ("torchvision", "torchvision.models"):
        stub = types.ModuleType(name)
        stub.__all__, stub.__version__ = [], "0"
        sys.modules[name] = stub
    sys.path.insert(0, str(path))
    from ppuda.deepnets1m.ops import PosEnc
    from ppuda.ghn.nn import GHN

    return GHN, PosEnc


def holder(kind, shape, pos_enc):
    """A module with a weight (and bias) of a shape."""
    if kind == "bn":
        return torch.nn.BatchNorm2d(shape[0])
    if kind == "ln":
        return torch.nn.LayerNorm(shape[0])
    module = pos_enc.__new__(pos_enc) if kind == "pos_enc" else torch.nn.Module()
    torch.nn.Module.__init__(module)
    module.register_parameter("bias" if kind == "bias" else "weight", empty_parameter(shape))
    return module


def empty_parameter(shape):
    return torch.nn.Parameter(torch.zeros(shape), requires_grad=False)


def parameter_table(record, arrays, kinds):
    """Rows (name, node, canonical shape, role, is classifier) of a network."""
    rows, last = [], len(record["node_shapes"]) - 2
    for node, name in zip(record["node_index"], record["node_names"], strict=True):
        kind, shape = kinds[node], record["node_shapes"][node]
        if shape is None or kind in ("max_pool", "avg_pool", "msa", "cse"):
            continue
        norm = kind in ("bn", "ln")
        role = {"bias": "bias", "pos_enc": "pos_enc"}.get(kind, "norm_scale" if norm else "kernel")
        shape = list(arrays["param/" + name].shape)
        rows.append([name, node, shape, role, node >= last])
        if norm:
            rows.append([name.replace(".weight", ".bias"), node, shape, "norm_bias", False])
    return rows


def predict(ghn, record, arrays, rows, kinds, pos_enc):
    """Predicted tensors by name, through the reference's forward pass."""
    modules, groups, where = {}, {}, {}
    size = ghn.max_shape[0]
    for node, shape in enumerate(record["node_shapes"]):
        if shape is not None:
            where[node] = ({"sz": tuple(shape)}, None, None)
    for _, node, shape, role, last in rows:
        if role == "norm_bias":
            continue
        modules[node] = holder(kinds[node], shape, pos_enc)
        if len(shape) == 1:
            key = (size, -1 if last else 0)
        elif last:
            key = (size, size)
        else:
            key = (size, size, *(shape[2:] or (1, 1)))
        members = groups.setdefault(key, [])
        matched = {"module": modules[node], "sz": tuple(shape), "is_w": role != "bias"}
        where[node] = (matched, key, len(members))
        members.append(node)
    ghn._map_net_params = lambda *_: (groups, where)
    edges = torch.from_numpy(arrays["edges"].astype(np.int64))
    if not ghn.ve:
        edges = edges[edges[:, 2] == 1]
    nodes = len(record["node_shapes"])
    primitive = torch.from_numpy(arrays["primitive"]).long()
    graphs = types.SimpleNamespace(
        node_feat=torch.stack([primitive, torch.zeros(nodes).long()], 1),
        edges=torch.cat([edges, torch.zeros(len(edges), 1).long()], 1),
    )
    with torch.no_grad():
        _, h = ghn(torch.nn.ModuleList(modules.values()), graphs, return_embeddings=True)
    tensors = {}
    for name, node, _, role, _ in rows:
        attribute = "bias" if role in ("bias", "norm_bias") else "weight"
        tensors[name] = getattr(modules[node], attribute).detach().numpy()
    return tensors, h.numpy()


def summary(tensor):
    """Norm and ENTRIES evenly spaced entries, float32 [1 + ENTRIES]."""
    flat = tensor.reshape(-1)
    picks = np.linspace(0, flat.size - 1, ENTRIES).astype(int)
    return np.concatenate([[np.linalg.norm(flat)], flat[picks]]).astype(np.float32)


def main(reference, peer):
    GHN, pos_enc = import_reference(pathlib.Path(reference))
    index = json.loads((pathlib.Path(peer) / "index.json").read_text())
    arrays_out, table = {}, {"configs": {}, "nets": {}, "cases": []}
    ghns = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        torch.manual_seed(seed)
        config = dict(num_classes=10, **config)
        ghns[name] = GHN(**config, debug_level=0).eval()
        table["configs"][name] = config
        state = {key: value.half().float() for key, value in ghns[name].state_dict().items()}
        ghns[name].load_state_dict(state)
        for key, value in state.items():
            arrays_out[f"{name}/{key}"] = value.numpy().astype(np.float16)
    for name, number in CASES:
        record = index["nets"][number]
        arrays = np.load(pathlib.Path(peer) / record["file"])
        kinds = [index["primitives"][kind] for kind in arrays["primitive"]]
        rows = parameter_table(record, arrays, kinds)
        table["cases"].append([name, number])
        table["nets"][number] = {"params": rows, "node_shapes": record["node_shapes"]}
        one_hop = arrays["edges"][:, 2] == 1
        arrays_out[f"net{number}/edges"] = arrays["edges"][one_hop, :2].astype(np.int16)
        arrays_out[f"net{number}/primitive"] = arrays["primitive"].astype(np.int8)
        tensors, h = predict(ghns[name], record, arrays, rows, kinds, pos_enc)
        arrays_out[f"{name}/net{number}/h"] = h
        arrays_out[f"{name}/net{number}/params"] = np.stack([summary(tensors[r[0]]) for r in rows])
    here = pathlib.Path(__file__).parent
    np.savez_compressed(here / "ghn_golden.npz", **arrays_out)
    (here / "ghn_golden.json").write_text(json.dumps(table, separators=(",", ":")))


if __name__ == "__main__":
    main(*sys.argv[1:])
