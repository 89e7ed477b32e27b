"""Runs the reference implementation's own training step, for `experiments.bench_train`.

Started by `bench_train` in the interpreter that has PyTorch, with a checkout of the reference and
a folder of architectures in the format of DeepNets-1M. It reads one JSON list of architecture
numbers per line and answers each with one line of JSON: the seconds of a step on them. Graphs are
read from the file before the clock starts, as the reference reads them in other processes.

Needs torch, torchvision, einops, networkx, h5py, matplotlib; nothing of ppuda_jax.
"""

import argparse
import json
import os
import sys
import time
import warnings


def main() -> None:
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the reference prints is not an answer
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", required=True, help="folder of the reference")
    parser.add_argument("--archs", required=True, help="folder with deepnets1m_eval.hdf5")
    parser.add_argument("--batch_size", type=int, required=True, help="images per step")
    parser.add_argument("--threads", type=int, required=True, help="threads of PyTorch")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    step = make_step(args)
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(step(json.loads(line))) + "\n")


def declare_vision_operators() -> object:
    """Lets a torchvision without compiled operators be imported; keep what is returned."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def make_step(args):
    """Returns a function from architecture numbers to the seconds of a step on them."""
    sys.path.insert(0, args.checkout)
    library = declare_vision_operators()
    import torch
    from ppuda.deepnets1m.graph import GraphBatch
    from ppuda.deepnets1m.loader import DeepNets1M
    from ppuda.deepnets1m.net import Network
    from ppuda.ghn.nn import GHN
    from ppuda.utils import Trainer

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    nets = DeepNets1M(split="val", nets_dir=args.archs, virtual_edges=50)
    ghn = GHN(max_shape=(64, 64, 11, 11), num_classes=10, hypernet="gatedgnn", decoder="conv",
              weight_norm=True, ve=True, layernorm=True, hid=32, debug_level=0)
    ghn.train()
    optimiser = torch.optim.Adam(ghn.parameters(), 1e-3, weight_decay=1e-5)
    never = 10**9
    trainer = Trainer(optimiser, 10, False, never, device="cpu", log_interval=never)
    images = torch.randn(args.batch_size, 3, 32, 32)
    targets = torch.randint(0, 10, (args.batch_size,))
    marks = {}
    ghn.register_forward_hook(lambda *_: marks.__setitem__("predicted", time.perf_counter()))

    def step(numbers):
        graphs = GraphBatch([nets[number] for number in numbers])
        started = time.perf_counter()
        models = [Network(is_imagenet_input=False, num_classes=10, light=True, **net_args)
                  for net_args in graphs.net_args]
        built = time.perf_counter()
        for model in models:
            model.register_forward_hook(
                lambda *_: marks.__setitem__("run", time.perf_counter()))
        try:
            trainer.update(models, images, targets, ghn=ghn, graphs=graphs)
        except RuntimeError as error:
            return {"error": str(error)}
        ended = time.perf_counter()
        return {"step": ended - started, "build": built - started,
                "predict": marks["predicted"] - built,
                "forward": marks["run"] - marks["predicted"], "backward": ended - marks["run"]}

    step.keep = library
    return step


if __name__ == "__main__":
    main()
