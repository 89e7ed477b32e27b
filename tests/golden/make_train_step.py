"""Makes train_step.json from the PyTorch reference (not run by the tests).

Usage: python tests/golden/make_train_step.py <checkout of facebookresearch/ppuda>

One training step of the reference (its loss, backward, clipping and Adam) on two networks, with
the weights and images of `tests/training/parity.py`. The networks are visual transformers, whose
executor compiles fastest; their graphs come from a file in the format of DeepNets-1M, because
tracing with a recent PyTorch loses their attention nodes. Dropout is off.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from experiments.bench_peer import declare_vision_operators
from ppuda_jax.archs.hdf5 import FILE_DISTANCE, SplitWriter
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.convert.state_dicts import config_to_torch
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.graphs.records import encode_nodes
from tests.training.parity import GHN2, images_and_labels, network_configs, torch_tensors


def write_networks(folder):
    def records():
        for config in network_configs():
            plan = make_plan(config)
            graph = graph_from_plan(plan)
            record = {**config.to_dict(), "num_nodes": graph.num_nodes}
            yield record, graph.distances(FILE_DISTANCE), encode_nodes(plan)

    with SplitWriter(str(folder / "deepnets1m_eval.hdf5")) as writer:
        writer.write_split("val", records())


def main(checkout):
    keep = declare_vision_operators()
    sys.path.insert(0, checkout)
    from ppuda.deepnets1m.graph import GraphBatch
    from ppuda.deepnets1m.loader import DeepNets1M
    from ppuda.deepnets1m.net import Network
    from ppuda.ghn.nn import GHN

    ghn = GHN(**config_to_torch(GHN2))
    ghn.load_state_dict({k: torch.tensor(v) for k, v in torch_tensors().items()})
    ghn.train()
    with tempfile.TemporaryDirectory() as folder:
        write_networks(pathlib.Path(folder))
        stored = DeepNets1M(split="val", nets_dir=folder, virtual_edges=50)
        graphs = GraphBatch([stored[i] for i in range(len(network_configs()))])
    graphs.to_device("cpu")
    nets = [
        Network(is_imagenet_input=False, num_classes=10, light=True, **args)
        for args in graphs.net_args
    ]
    for net in nets:
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    images, labels = images_and_labels()
    images = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    labels = torch.tensor(labels).long()
    optimiser = torch.optim.Adam(ghn.parameters(), 1e-3, weight_decay=1e-5)
    losses = []
    for net in ghn(nets, graphs):
        out = net(images)
        out = out[0] if isinstance(out, tuple) else out
        losses.append(torch.nn.functional.cross_entropy(out, labels))
    loss = sum(losses) / len(losses)
    loss.backward()
    named = dict(ghn.named_parameters())
    grads = {name: p.grad.numpy().copy() for name, p in named.items()}
    total = float(torch.nn.utils.clip_grad_norm_(ghn.parameters(), 5.0))
    optimiser.step()
    picks = {name: np.linspace(0, g.size - 1, 8).astype(int) for name, g in grads.items()}
    result = {
        "losses": [float(x) for x in losses],
        "loss": float(loss),
        "grad_norm": total,
        "tensors": {
            name: {
                "grad_norm": float(np.linalg.norm(grads[name])),
                "after_norm": float(named[name].detach().norm()),
                "after": named[name].detach().numpy().reshape(-1)[picks[name]].tolist(),
            }
            for name in named
        },
    }
    path = pathlib.Path(__file__).with_name("train_step.json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(result["losses"], total, keep)


if __name__ == "__main__":
    main(sys.argv[1])
