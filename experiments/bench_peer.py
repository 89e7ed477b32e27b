"""Runs the reference implementation's own step or evaluation, for the benchmarks beside it.

Started by `experiments.peer` in the interpreter that has PyTorch, with a checkout of the reference
and a folder of architectures in the format of DeepNets-1M. It reads one JSON list of architecture
numbers per line and answers each with one line of JSON: the seconds of a training step on them, or
of predicting and running the one that is named. Graphs are read from the file before the clock
starts, as the reference reads them in other processes.

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
    parser.add_argument("--task", choices=sorted(_TASKS), required=True, help="what is answered")
    parser.add_argument("--checkout", required=True, help="folder of the reference")
    parser.add_argument("--folder", required=True, help="of the architectures and arrays")
    parser.add_argument("--batch_size", type=int, required=True, help="images per batch")
    parser.add_argument("--threads", type=int, required=True, help="threads of PyTorch")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sys.path.insert(0, args.checkout)
    library = declare_vision_operators()
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    answer = _TASKS[args.task](args)
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
    del library  # the declarations last as long as this


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
    import torch
    from ppuda.deepnets1m.graph import GraphBatch
    from ppuda.deepnets1m.loader import DeepNets1M
    from ppuda.deepnets1m.net import Network
    from ppuda.ghn.nn import GHN
    from ppuda.utils import Trainer

    nets = DeepNets1M(split="val", nets_dir=args.folder, virtual_edges=50)
    ghn = GHN(
        max_shape=(64, 64, 11, 11),
        num_classes=10,
        hypernet="gatedgnn",
        decoder="conv",
        weight_norm=True,
        ve=True,
        layernorm=True,
        hid=32,
        debug_level=0,
    )
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
        models = [
            Network(is_imagenet_input=False, num_classes=10, light=True, **net_args)
            for net_args in graphs.net_args
        ]
        built = time.perf_counter()
        for model in models:
            model.register_forward_hook(lambda *_: marks.__setitem__("run", time.perf_counter()))
        try:
            trainer.update(models, images, targets, ghn=ghn, graphs=graphs)
        except RuntimeError as error:
            return {"error": str(error)}
        ended = time.perf_counter()
        return {
            "step": ended - started,
            "build": built - started,
            "predict": marks["predicted"] - built,
            "forward": marks["run"] - marks["predicted"],
            "backward": ended - marks["run"],
        }

    return step


def make_evaluate(args):
    """Returns a function from one architecture number to its loss, accuracy and seconds.

    The folder's arrays.npz has `images` [n, 3, 32, 32] (normalised), `labels` [n], the GHN's
    `config` (JSON), and its tensors, their names behind "ghn/".
    """
    import numpy as np
    import torch
    from ppuda.deepnets1m.graph import GraphBatch
    from ppuda.deepnets1m.loader import DeepNets1M
    from ppuda.deepnets1m.net import Network
    from ppuda.ghn.nn import GHN

    with np.load(os.path.join(args.folder, "arrays.npz")) as file:
        config = json.loads(file["config"].item())
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "config"}
    virtual_edges = 50 if config["ve"] else 1
    nets = DeepNets1M(split="val", nets_dir=args.folder, virtual_edges=virtual_edges)
    ghn = GHN(**config, debug_level=0)
    ghn.load_state_dict(
        {
            name.removeprefix("ghn/"): tensor
            for name, tensor in arrays.items()
            if name.startswith("ghn/")
        }
    )
    ghn.eval()
    images = arrays["images"].split(args.batch_size)
    labels = arrays["labels"].split(args.batch_size)

    def evaluate(numbers):
        (number,) = numbers
        graphs = GraphBatch([nets[number]]).to_device("cpu")  # makes tensors of its lists
        started = time.perf_counter()
        model = Network(
            is_imagenet_input=False, num_classes=config["num_classes"], **graphs.net_args[0]
        ).eval()
        built = time.perf_counter()
        with torch.no_grad():
            ghn(model, graphs)
            predicted = time.perf_counter()
            outputs = [model(batch) for batch in images]
        ended = time.perf_counter()
        logits = torch.cat([out[0] if isinstance(out, tuple) else out for out in outputs])
        targets = torch.cat(labels)
        return {
            "seconds": ended - started,
            "build_s": built - started,
            "predict_s": predicted - built,
            "run_s": ended - predicted,
            "top1": (logits.argmax(1) == targets).float().mean().item(),
            "loss": torch.nn.functional.cross_entropy(logits, targets).item(),
        }

    return evaluate


_TASKS = {"step": make_step, "evaluate": make_evaluate}

if __name__ == "__main__":
    main()
