"""Predicts the parameters of a network: `python -m experiments.predict --model=resnet50`.

`--model` is a name of the zoo or `package.module:factory`. A factory may take `num_classes` and
`image_size` and returns a Flax module, or (apply_fn, variables, inputs).

    python -m experiments.predict --model=resnet50 --checkpoint=my_ghn --output=resnet50_params
    python -m experiments.predict --model=vit --output=vit.safetensors --evaluate --dataset=cifar10
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ppuda_jax.calibration import calibrate
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.data.datasets import dataset_of, spec_for
from ppuda_jax.data.images import normalise
from ppuda_jax.data.spec import trained_spec
from ppuda_jax.evaluation import accuracy, load_eval_images
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.describe import describe
from ppuda_jax.nets.zoo import MODELS
from ppuda_jax.params_io import save_params
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.runtime.progress import Progress
from ppuda_jax.tracing.api import trace
from ppuda_jax.zoo import load_model

from . import flags

_BATCH = 64


def build(
    name: str, num_classes: int, image_size: int, concrete: bool = False
) -> tuple[Callable[..., Any], Any, Any]:
    """Builds what `--model` names.

    Args:
      name: a zoo model or `package.module:factory`.
      num_classes: size of the classifier.
      image_size: pixels per side.
      concrete: initialises the variables of a Flax module instead of describing them.

    Returns:
      (apply_fn, variables, abstract inputs).

    Raises:
      ValueError: if there is no such model.
    """
    built = load_model(name, num_classes, image_size)
    if isinstance(built, tuple):
        return built
    images = jax.ShapeDtypeStruct((_BATCH, image_size, image_size, 3), jnp.float32)
    init = jax.jit(built.init) if concrete else functools.partial(jax.eval_shape, built.init)
    given = jnp.zeros(images.shape) if concrete else images
    return built.apply, init(jax.random.key(0), given), images


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What is predicted; every field is a flag."""

    model: str = described("resnet50", f"package.module:factory, or one of {', '.join(MODELS)}")
    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    output: str | None = described(None, "orbax folder or .safetensors file to write")
    image_size: int | None = described(None, "pixels per side; by default those of the dataset")
    any_image_size: bool = described(False, "accept a size that the checkpoint was not made for")
    unsupported: Literal["error", "init", "skip"] = described(
        "error", "what is done with leaves that cannot be predicted"
    )
    describe: bool = described(False, "print the graph's nodes")
    draw: str | None = described(None, "file for a picture of the graph")
    evaluate: bool = described(False, "print the accuracy on the test images")
    dataset: str | None = described(None, "images; by default those that the checkpoint is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    max_images: int | None = described(None, "only the first test images")
    calibrate: int = described(
        0, "fill batch statistics from so many training batches before the evaluation"
    )

    def __post_init__(self) -> None:
        check_types(self)
        if self.calibrate < 0:
            raise ValueError(f"calibrate must not be negative, received {self.calibrate}")


def run(args: PredictConfig) -> flags.Report:
    """Traces, predicts, saves and evaluates; returns what came out."""
    ghn = load_ghn(args.checkpoint)
    size, classes = ghn.metadata.get("image_size", 32), ghn.config.num_classes
    if args.dataset or trained_spec(ghn.metadata):
        spec = spec_for(ghn.metadata, args.dataset, args.data_dir)
        size, classes = spec.image_size, spec.num_classes
    if args.evaluate and args.image_size not in (None, size):
        raise ValueError(
            f"--evaluate runs the network on images of {size}x{size} pixels, received "
            f"--image_size={args.image_size}: leave out one of the two"
        )
    size = args.image_size or size
    apply_fn, variables, inputs = build(args.model, classes, size, args.unsupported == "init")
    start = time.perf_counter()
    graph = trace(apply_fn, variables, inputs)
    traced = time.perf_counter() - start
    if args.describe:
        print(describe(graph))  # at once, since it explains what may be refused below
    if args.draw:
        from ppuda_jax.visualization import draw_graph

        draw_graph(graph, args.draw)
    initial = params_of(variables) if args.unsupported == "init" else None
    start = time.perf_counter()
    params = predict_params(
        apply_fn,
        graph,
        ghn=ghn,
        unsupported=args.unsupported,
        initial=initial,
        any_image_size=args.any_image_size,
    )
    jax.block_until_ready(params)
    predicted = time.perf_counter() - start
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    lines = [
        f"{args.model}: {int(graph.n_node[0])} nodes traced in {traced:.2f} s, {count} parameters "
        f"predicted in {predicted:.2f} s (compilation included)"
    ]
    if args.output:
        lines.append(f"written to {save_params(args.output, params)}")
    if args.evaluate:
        lines.append(_evaluate(args, ghn, apply_fn, _with_params(variables, params)))
    return flags.report(*lines)


def _has_collections(variables: Any) -> bool:
    """Whether parameters are one of several collections, as in Flax linen."""
    return isinstance(variables, Mapping) and "params" in variables


def params_of(variables: Any) -> Any:
    """The parameters of a network of any library."""
    return variables["params"] if _has_collections(variables) else variables


def _with_params(variables: Any, params: Any) -> Any:
    """Variables with other parameters; collections that are only described are left out."""
    if not _has_collections(variables):
        return params
    others = {name: value for name, value in variables.items() if name != "params"}
    described = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(others))
    return {"params": params} if described else {**others, "params": params}


def _evaluate(args: PredictConfig, ghn: LoadedGHN, apply_fn, variables) -> str:
    statistics = "statistics of each batch"
    if args.calibrate:
        train = dataset_of(ghn.metadata, args.dataset, args.data_dir).load("train")
        images = (normalise(images, train.spec) for images, _ in train.batches(_BATCH))
        chosen = (batch for batch, _ in zip(images, range(args.calibrate), strict=False))
        variables = calibrate(apply_fn, variables, chosen, train=True)
        statistics = f"statistics of {args.calibrate} training batches"
    data = load_eval_images(
        args.dataset,
        "test",
        args.data_dir,
        ghn=ghn,
        batch_size=_BATCH,
        max_images=args.max_images,
    )
    with contextlib.closing(Progress("evaluating")) as bar:
        value = 100 * accuracy(
            apply_fn, variables, data, progress=lambda done, total: bar.move(done / total)
        )
    return f"{data.spec.name}: {value:.2f} % of {data.num_images} test images right ({statistics})"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(PredictConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
