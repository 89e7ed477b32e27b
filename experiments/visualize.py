"""Draws what a GHN sees, predicts and has learnt: `python -m experiments.visualize`.

    python -m experiments.visualize --model=resnet50 --output=DIR
    python -m experiments.visualize --split=deep --index=3 --virtual_edges=50 --output=DIR
    python -m experiments.visualize --run=runs/ghn2-digits --results=runs/evaluated --output=DIR

A network (`--model`, or a number of a split of DeepNets-1M) gives its graph, its predicted
first-layer filters and the norms of all its predicted layers, beside trained parameters
(`--trained`, or `--train_steps`) or else beside He's random ones. `--run` gives the learning curves
of a run, `--results` the bars of an evaluation beside the paper's, `--embeddings` a map of
networks. Every picture is written as PNG and SVG.
"""

import contextlib
import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.data.datasets import dataset_of, spec_for
from ppuda_jax.data.spec import trained_spec
from ppuda_jax.evaluation import NetResult, choose_networks
from ppuda_jax.evaluation.parameters import initial_params
from ppuda_jax.evaluation.published import COLUMNS, METRIC, model_of, published_row
from ppuda_jax.evaluation.results import read_results, table_row
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets.network import Network
from ppuda_jax.nets.zoo import MODELS
from ppuda_jax.params_io import load_params
from ppuda_jax.prediction.predict import predict_params, unsupported_leaves
from ppuda_jax.prediction.random import he_leaves
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.progress import Progress
from ppuda_jax.tracing.api import trace
from ppuda_jax.tracing.params import param_tree
from ppuda_jax.training.metrics import read_metrics
from ppuda_jax.visualization import draw_filters, draw_graph
from ppuda_jax.visualization.bars import draw_bars
from ppuda_jax.visualization.embeddings import draw_embeddings
from ppuda_jax.visualization.norms import Layer, draw_norms, layers_of
from ppuda_jax.visualization.runs import draw_curves

from . import flags
from .predict import build, params_of

_BATCH = 32
_KERNEL_AXES = 4
_MOST_LABELLED = 150  # nodes
_MOVES = 20  # of the bar while a network is trained

_Leaves = Mapping[tuple[str, ...], np.ndarray]


@dataclasses.dataclass(frozen=True)
class VisualizeConfig:
    """What is drawn; every field is a flag."""

    model: str | None = described(None, f"package.module:factory, or one of {', '.join(MODELS)}")
    split: str | None = described(None, "instead of a model: a split, or a file path.hdf5[:split]")
    index: int = described(0, "number of the network in its split")
    output: str = described("pictures", "folder for the pictures; those that are there go")
    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    labels: bool | None = described(
        None, "write its kind beside each node; by default up to 150 nodes"
    )
    virtual_edges: int = described(
        1, "longest path whose virtual edge is drawn, up to 50; 1 for none"
    )
    trained: str | None = described(
        None, "trained parameters of the network, as save_params or experiments.predict wrote them"
    )
    train_steps: int = described(0, "instead of that, train so many steps from the network's own")
    dataset: str | None = described(None, "images; by default those that the checkpoint is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    run: str | None = described(None, "folder of a run of experiments.train")
    results: str | None = described(
        None, "folder or .jsonl file that experiments.evaluate --output wrote"
    )
    embeddings: str | None = described(
        None, ".npz file with embeddings [N, D], accuracy [N] in [0, 1] and split [N]"
    )
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        if self.model is not None and self.split is not None:
            raise ValueError("give --model or --split, not both")
        if not (self.model or self.split or self.run or self.results or self.embeddings):
            raise ValueError(
                "give what is drawn: --model, --split, --run, --results or --embeddings"
            )
        if self.train_steps < 0 or (self.train_steps and self.trained):
            raise ValueError(
                "train_steps must not be negative, and 0 where --trained gives parameters, "
                f"received {self.train_steps}"
            )


def run(args: VisualizeConfig) -> str:
    """Draws; returns which files were written, and which were not and why.

    Raises:
      ValueError: options that do not exist or do not fit together, foreign files.
      FileNotFoundError: missing files.
    """
    folder = pathlib.Path(args.output).expanduser()
    with compilation_cache(args.compilation_cache):
        lines: list[str] = []
        if args.model or args.split:
            lines += _draw_network(args, folder)
        if args.run:
            lines.append(_draw_run(args.run, folder))
        if args.results:
            lines.append(_draw_results(pathlib.Path(args.results).expanduser(), folder))
        if args.embeddings:
            lines.append(_draw_embeddings(pathlib.Path(args.embeddings).expanduser(), folder))
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A network to draw.

    Attributes:
      name: of the network.
      graph: its graph.
      apply_fn: the network as a function.
      initial: makes its own random parameters.
    """

    name: str
    graph: ArchGraph
    apply_fn: Callable[..., Any]
    initial: Callable[[], Any]


def _draw_network(args: VisualizeConfig, folder: pathlib.Path) -> list[str]:
    ghn = load_ghn(args.checkpoint)
    net = _network(args, ghn)
    labels = net.graph.num_nodes <= _MOST_LABELLED if args.labels is None else args.labels
    draw_graph(
        net.graph,
        _files(folder, "graph"),
        labels,
        virtual_edges=args.virtual_edges,
        title=net.name,
    )
    lines = [_written(folder, "graph", f"{net.graph.num_nodes} nodes")]
    refused = unsupported_leaves(net.graph, ghn)
    lines += [f"not predicted: {'/'.join(leaf.path)}: {leaf.reason}" for leaf in refused]
    hidden = {leaf.path for leaf in refused}
    layers = [layer for layer in layers_of(net.graph) if layer.path not in hidden]
    if not layers:
        return [*lines, "filters and norms are not written: no parameter is predicted"]
    ours = _flat(predict_params(None, net.graph, ghn, "skip", any_image_size=True))
    label, others = _others(args, ghn, net)
    _check(layers, ours, others, net.name, args.trained)
    predicted = f"predicted by {ghn.name}"
    kernels = [x for x in layers if x.role == "kernel" and ours[x.path].ndim == _KERNEL_AXES]
    if kernels:
        first = kernels[0].path
        draw_filters(
            {predicted: ours[first], label: others[first]},
            _files(folder, "filters"),
            f"{net.name}: {'/'.join(first)} {'x'.join(map(str, ours[first].shape))}",
        )
        lines.append(_written(folder, "filters", f"{'/'.join(first)}, beside: {label}"))
    else:
        lines.append("filters are not written: no kernel has four axes (height, width, in, out)")
    norms = {
        text: [float(np.linalg.norm(leaves[x.path].astype(np.float64))) for x in layers]
        for text, leaves in ((predicted, ours), (label, others))
    }
    draw_norms(layers, norms, _files(folder, "norms"), net.name)
    return [*lines, _written(folder, "norms", f"{len(layers)} layers, beside: {label}")]


def _check(
    layers: Sequence[Layer], ours: _Leaves, others: _Leaves, name: str, file: str | None
) -> None:
    """Raises ValueError unless there is a leaf beside each predicted one."""
    wrong = [
        f"{'/'.join(layer.path)} {ours[layer.path].shape}"
        for layer in layers
        if layer.path not in others or others[layer.path].shape != ours[layer.path].shape
    ]
    if wrong:
        raise ValueError(
            f"{file} must hold the parameters of {name}: {len(wrong)} of {len(layers)} leaves are "
            f"missing or have another shape, {', '.join(wrong[:3])}..."
        )


def _network(args: VisualizeConfig, ghn: LoadedGHN) -> Drawn:
    size, classes = ghn.metadata.get("image_size", 32), ghn.config.num_classes
    if args.dataset or trained_spec(ghn.metadata):
        spec = spec_for(ghn.metadata, args.dataset, args.data_dir)
        size, classes = spec.image_size, spec.num_classes
    if args.split is None:
        return _model(args.model or "", classes, size)
    (net,) = choose_networks(
        args.split, indices=(args.index,), num_classes=classes, image_size=size
    )
    if net.plan is None:
        return _model(net.model or "", classes, size)
    return Drawn(
        net.name, graph_from_plan(net.plan), Network(net.plan).apply, lambda: initial_params(net, 0)
    )


def _model(name: str, classes: int, size: int) -> Drawn:
    apply_fn, variables, inputs = build(name, classes, size)
    graph = ArchGraph.from_graphs_tuple(trace(apply_fn, variables, inputs))

    def initial() -> Any:
        return params_of(build(name, classes, size, concrete=True)[1])

    return Drawn(name, graph, apply_fn, initial)


def _others(args: VisualizeConfig, ghn: LoadedGHN, net: Drawn) -> tuple[str, _Leaves]:
    """What predicted parameters stand beside: its name, and leaves by path."""
    if args.trained:
        name = pathlib.Path(args.trained).name
        return f"trained ({name})", _flat(load_params(args.trained))
    if args.train_steps:
        return f"trained for {args.train_steps} steps", _flat(_train(args, ghn, net))
    return "random, He's normal (not trained)", jax.device_get(he_leaves(net.graph))


def _train(args: VisualizeConfig, ghn: LoadedGHN, net: Drawn) -> Any:
    """Trains the network from its own random parameters."""
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.finetune.fit import fit
    from ppuda_jax.finetune.network import of_apply
    from ppuda_jax.finetune.recipe import Recipe

    spec = dataset_of(ghn.metadata, args.dataset, args.data_dir).spec
    images = training_images(spec.name, _BATCH, 0, args.data_dir, trained=spec)
    held_out = load_eval_images(
        args.dataset, "test", args.data_dir, ghn=ghn, batch_size=_BATCH, max_images=_BATCH
    )
    network = of_apply(net.apply_fn, lambda seed: net.initial(), name=net.name)
    with contextlib.closing(Progress("training")) as bar:
        curve = fit(
            network,
            network.pack(network.initial(0)),
            images,
            held_out,
            Recipe(batch_size=_BATCH),
            steps=args.train_steps,
            every=-(-args.train_steps // _MOVES),
            save=lambda now: bar.move(now.points[-1].step / args.train_steps),
        )
    if curve.diverged_at is not None:
        raise ValueError(f"{net.name} diverged at step {curve.diverged_at} of training")
    return curve.params


def _flat(params: Any) -> _Leaves:
    tree, leaves = param_tree(params)
    return dict(zip(tree.paths, map(np.asarray, leaves), strict=True))


def _draw_run(workdir: str, folder: pathlib.Path) -> str:
    metrics = read_metrics(workdir)
    if not metrics:
        raise ValueError(f"{workdir} must be the folder of a run, it has no lines in metrics.jsonl")
    chance = 1 / load_ghn(workdir).config.num_classes
    draw_curves(metrics, chance, _files(folder, "curves"))
    return _written(folder, "curves", f"{len(metrics)} lines of metrics")


def _draw_results(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Bars of the splits of one evaluation, which are files of one folder."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    files = [file for file in files if file.name != "sgd.jsonl"]  # trainings, of another kind
    if not files:
        raise ValueError(f"{path} holds no results (*.jsonl) of experiments.evaluate --output")
    read = [read_results(file, NetResult) for file in files]
    first = {key: read[0][0].get(key) for key in ("dataset", "ghn", "params")}
    for file, (identity, _) in zip(files, read, strict=True):
        if {key: identity.get(key) for key in first} != first:
            raise ValueError(f"{file} and {files[0]} are of different evaluations")
    groups: dict[str, list[NetResult]] = {}
    for _, results in read:
        for result in results:
            groups.setdefault(result.split, []).append(result)
    dataset = str(first["dataset"])
    metric, ghn = METRIC.get(dataset, "top1"), first["ghn"]
    row = table_row(groups, metric)
    rows = {
        "ours" if ghn else str(first["params"]): {k: (v, e or 0.0) for k, (v, e) in row.items()}
    }
    config = GHNConfig.from_dict(ghn) if ghn else None
    for method in ((model_of(config),) if config else ()) + ("SGD, 1 epoch",):
        paper = published_row(dataset, method)
        if paper is not None:
            rows[f"paper, {method}"] = {k: (v, 0.0) for k, v in paper.items() if k in row}
    columns = [name for name in COLUMNS if name in row] + [k for k in row if k not in COLUMNS]
    classes = config.num_classes if config else 10
    chance = 100 * (5 if metric == "top5" else 1) / classes
    counts = ", ".join(f"{len(found)} of {split}" for split, found in groups.items())
    title = f"{dataset}, {metric}; networks: {counts}"
    draw_bars(rows, columns, chance, _files(folder, "results"), title)
    return _written(folder, "results", title)


def _draw_embeddings(path: pathlib.Path, folder: pathlib.Path) -> str:
    needed = ("embeddings", "accuracy", "split")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"embeddings must be an .npz file with {', '.join(needed)}, received {path}"
        )
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in needed if name not in file]
        if missing:
            raise ValueError(f"{path} must hold {', '.join(needed)}, it lacks {', '.join(missing)}")
        embeddings, accuracy, split = (file[name] for name in needed)
    draw_embeddings(embeddings, 100 * accuracy, split.tolist(), _files(folder, "embeddings"))
    return _written(folder, "embeddings", f"{len(embeddings)} networks")


def _files(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    return [folder / f"{name}.png", folder / f"{name}.svg"]


def _written(folder: pathlib.Path, name: str, what: str) -> str:
    return f"{folder / name}.png and .svg: {what}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(VisualizeConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
