"""How a network is trained: optimiser, schedule and regularisation, with the published recipes.

Legend: `b` images of a batch, `s` image side.
"""

import dataclasses
import inspect
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.config import check_types, described


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe; the defaults are the paper's for CIFAR-10 (appendix C.1)."""

    optimizer: str = described("sgd", "name of an optimiser of optax: sgd, adam, adamw, lamb, ...")
    learning_rate: float = described(0.025, "at the start")
    momentum: float = described(0.9, "of sgd; other optimisers have their own")
    weight_decay: float = described(
        3e-4, "decoupled where the optimiser takes it (adamw), else an L2 penalty"
    )
    grad_clip: float = described(5.0, "global norm of the gradient; 0 for no limit")
    schedule: Literal["cosine", "constant"] = described("cosine", "of the learning rate, to zero")
    batch_size: int = described(96, "images per step")
    label_smoothing: float = described(0.0, "share of the target that is spread over all classes")
    cutout: int = described(0, "side of the square that is cut out of each training image")
    drop_path: float = described(0.0, "probability to drop an edge of a cell")
    auxiliary: float = described(0.0, "weight of the auxiliary classifier of DARTS")

    def __post_init__(self) -> None:
        check_types(self)
        if self.optimizer not in optimizers():
            raise ValueError(
                f"optimizer must be one of optax's ({', '.join(optimizers())}), received "
                f"{self.optimizer!r}"
            )
        if self.learning_rate < 0 or self.batch_size < 2:
            raise ValueError(
                "learning_rate must not be negative and batch_size at least 2, received "
                f"{self.learning_rate} and {self.batch_size}"
            )
        for name in ("label_smoothing", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), received {getattr(self, name)}")

    def rate(self, progress: float) -> float:
        """Learning rate where a share `progress` of the steps is done."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def make_optimiser(self) -> optax.GradientTransformationExtraArgs:
        """The optimiser; its state has `hyperparams["learning_rate"]`, which each step sets."""
        make = getattr(optax, self.optimizer)
        options = inspect.signature(make).parameters
        before = [optax.clip_by_global_norm(self.grad_clip)] if self.grad_clip else []
        given = {"momentum": self.momentum} if self.optimizer == "sgd" else {}
        if "weight_decay" in options:
            given["weight_decay"] = self.weight_decay
        elif self.weight_decay:
            before.append(optax.add_decayed_weights(self.weight_decay))

        def chain(learning_rate: jax.Array) -> optax.GradientTransformation:
            return optax.chain(*before, make(learning_rate=learning_rate, **given))

        return optax.inject_hyperparams(chain)(learning_rate=self.learning_rate)


def optimizers() -> tuple[str, ...]:
    """Names of optax's optimisers: functions of a learning rate with a default for all else."""
    return tuple(sorted(filter(_is_optimiser, vars(optax))))


_OTHERS = ("lbfgs", "noisy_sgd", "optimistic_adam")
# They search along a line, ask for a key of their own, or are deprecated.


def _is_optimiser(name: str) -> bool:
    make = getattr(optax, name)
    if not inspect.isfunction(make) or name.startswith(("_", "scale_")) or name in _OTHERS:
        return False
    options = inspect.signature(make).parameters
    needed = {n for n, p in options.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    return needed <= {"learning_rate"} and "learning_rate" in options


def default_rate(optimizer: str) -> float:
    """Learning rate at the start: the published one of SGD, the usual one of all others."""
    return Recipe.learning_rate if optimizer == "sgd" else 1e-3


FULL = Recipe()
"""Fifty epochs on all images (paper, appendix C.1)."""

LONG = Recipe(cutout=16, drop_path=0.2, auxiliary=0.4)
"""Six hundred epochs of a network that a search has found, as DARTS trains them (appendix C.3)."""

SHOTS = Recipe(weight_decay=1e-3)
"""Fifty epochs on a hundred images per class (appendix C.4)."""


PUBLISHED = {"full": (FULL, 50), "long": (LONG, 600), "shots": (SHOTS, 50)}
"""Recipes by name, each with its epochs."""


def cut_out(images: jax.Array, key: jax.Array, side: int) -> jax.Array:
    """Zeroes one square of each image, which may reach over its edge (DeVries and Taylor, 2017).

    Args:
      images: [b, s, s, 3], normalised, so that zero is the mean.
      key: PRNG key (consumed).
      side: of the square, in pixels; 0 for none.
    """
    if not side:
        return images
    batch, size = images.shape[:2]
    centre = jax.random.randint(key, (batch, 2), 0, size)
    rows = jnp.arange(size)[None] - centre[:, :1]  # [b, s]
    columns = jnp.arange(size)[None] - centre[:, 1:]
    low, high = -(side // 2), side - side // 2
    in_rows, in_columns = (low <= rows) & (rows < high), (low <= columns) & (columns < high)
    hole = in_rows[:, :, None] & in_columns[:, None, :]
    return jnp.where(hole[..., None], jnp.zeros((), images.dtype), images)
