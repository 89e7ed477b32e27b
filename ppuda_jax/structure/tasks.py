"""Image sets as search problems: half of the training images for weights, half for structures.

Legend: `n` images, `s` their side.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.data.datasets import load_images
from ppuda_jax.data.images import ImageArrays
from ppuda_jax.structure import darts_net, nasbench201_net
from ppuda_jax.structure.mlp import mlp
from ppuda_jax.structure.mlp_candidates import SameOrDeeper
from ppuda_jax.structure.search.adanet import Generator
from ppuda_jax.structure.search.named import Optimizers
from ppuda_jax.structure.search.problem import Objects, Problem, classification
from ppuda_jax.structure.supernet import Supernet
from ppuda_jax.structure.weights import Source

_OWN_SIDE = {"digits": 8}  # of sets whose images come enlarged
_CLIP = 1.0  # of every entry of a gradient, as published for perceptrons
_CLIP_NORM = 5.0  # of the whole gradient, as DARTS has it


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of networks on images.

    Attributes:
      problem: for searches.
      final: training and validation images together, tested on the test images.
      optimizers: that suit the family.
      candidates: makes AdaNet's generator, given the source of the weights of candidates; None of
        families that have none.
    """

    problem: Problem
    final: Problem
    optimizers: Optimizers
    candidates: Callable[[Source], Generator] | None = None


@dataclasses.dataclass(frozen=True)
class Images:
    """Training and test images of one set.

    Attributes:
      train: normalised, [n, s, s, 3].
      test: likewise.
      classes: of both.
    """

    train: Objects
    test: Objects
    classes: int

    @property
    def side(self) -> int:
        """Pixels: s."""
        return int(self.train.x.shape[1])


def load(
    dataset: str,
    data_dir: str | None = None,
    *,
    side: int | None = None,
    max_images: int | None = None,
) -> Images:
    """Loads images, averaged down to a side.

    Args:
      dataset: any name that `load_images` takes.
      data_dir: TFDS folder.
      side: s; by default that of the set, and the 8 pixels that the digits have by themselves.
      max_images: only the first training images.

    Raises:
      ValueError, FileNotFoundError: no such images, fewer than two, or a side that does not divide
        theirs.
    """
    train = load_images(dataset, "trainval", data_dir, max_images=max_images)
    test = load_images(dataset, "test", data_dir)
    if len(train) < 2:
        raise ValueError(f"two halves need at least 2 training images, received {len(train)}")
    side = side or _OWN_SIDE.get(dataset, train.spec.image_size)
    whole, tested = (
        Objects(jnp.asarray(_averaged(part, side)), jnp.asarray(part.labels))
        for part in (train, test)
    )
    return Images(whole, tested, train.spec.num_classes)


def _averaged(images: ImageArrays, side: int) -> np.ndarray:
    """Normalised images whose pixels are means of squares."""
    size = images.spec.image_size
    if not 1 <= side <= size or size % side:
        raise ValueError(f"the side must divide that of the images, {size}, received {side}")
    step = size // side
    blocks = images.images.reshape(len(images), side, step, side, step, 3)
    means = blocks.mean((2, 4), dtype=np.float32) / np.float32(255)
    spec = images.spec
    return (means - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)


def perceptrons(images: Images, *, widths: Sequence[int], layers: int) -> Task:
    """Perceptrons on the mean of the colours, one standardised vector an image.

    Args:
      images: see there.
      widths: of a layer.
      layers: most hidden layers.

    Raises:
      ValueError: widths or layers without sense.
    """
    grey = [np.asarray(part.x).mean(-1).reshape(len(part.x), -1) for part in _parts(images)]
    mean, std = grey[0].mean(), grey[0].std()
    whole, tested = (
        Objects(jnp.asarray((x - mean) / std), part.y)
        for x, part in zip(grey, _parts(images), strict=True)
    )
    supernet = mlp(whole.x.shape[1], images.classes, widths, layers)
    middle = 1 + (len(widths) - 1) // 2
    # Adam's rates are the published ones.
    optimizers = Optimizers(
        optax.chain(optax.clip(_CLIP), optax.adam(1e-3)),
        optax.chain(optax.clip(_CLIP), optax.adam(1e-2)),
    )
    return Task(
        *_problems(supernet, whole, tested, None),
        optimizers,
        lambda source: SameOrDeeper(supernet, middle, source),
    )


def cells(images: Images, skeleton: nasbench201_net.Skeleton, batch_size: int) -> Task:
    """Cells of NAS-Bench-201.

    Args:
      images: of the skeleton's side and classes.
      skeleton: see there.
      batch_size: of images where one network is evaluated.
    """
    supernet = nasbench201_net.supernet(skeleton)
    return Task(*_problems(supernet, *_parts(images), batch_size), _image_optimizers())


def darts(images: Images, skeleton: darts_net.Skeleton, batch_size: int) -> Task:
    """Networks of DARTS.

    Args:
      images: of the skeleton's side and classes.
      skeleton: see there.
      batch_size: of images where one network is evaluated.
    """
    problem, final = _problems(darts_net.supernet(skeleton), *_parts(images), batch_size)
    whole = darts_net.supernet(dataclasses.replace(skeleton, partial=1))
    return Task(problem, dataclasses.replace(final, supernet=whole), _image_optimizers())


def _image_optimizers() -> Optimizers:
    """Momentum and Adam as DARTS has them, at rates for searches of minutes."""
    return Optimizers(
        optax.chain(optax.clip_by_global_norm(_CLIP_NORM), optax.sgd(0.05, momentum=0.9)),
        optax.adam(0.02, b1=0.5),
        derivative="finite_difference",
    )


def _parts(images: Images) -> tuple[Objects, Objects]:
    return images.train, images.test


def _problems(
    supernet: Supernet, whole: Objects, tested: Objects, batch_size: int | None
) -> tuple[Problem, Problem]:
    """The problem of searches, and that of networks that were chosen."""
    half = len(whole.x) // 2
    first, second = (
        Objects(whole.x[rows], whole.y[rows]) for rows in (slice(None, half), slice(half, None))
    )
    return (
        classification(supernet, first, second, batch_size),
        classification(supernet, whole, tested, batch_size),
    )
