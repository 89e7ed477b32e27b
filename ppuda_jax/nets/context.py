"""What is static when an operation is traced: an argument of every operation, network and executor.

An argument and no setting of the process: it is part of the key under which `jit` keeps a program,
and threads that trace at the same time do not see each other's.
"""

import dataclasses
from typing import Literal, get_args

import jax

Form = Literal["taps", "library"]
"""How convolutions, pools and attention are written, see `lowering`."""


@dataclasses.dataclass(frozen=True)
class OpContext:
    """Static choices, hashable.

    Attributes:
        form: `"taps"` or `"library"`; None takes the faster one of the default backend.
        norm_images: batch norms use the statistics of so many first images of a batch, which
            calibrates a network if they are training images; 0 uses all. For evaluation: such
            norms have no gradient.
        norms: whether norms are computed; without, they pass on what they get (some proxies).
    """

    form: Form | None = None
    norm_images: int = 0
    norms: bool = True

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.form is not None and self.form not in get_args(Form):
            raise ValueError(f"form must be 'taps', 'library' or None, received {self.form!r}")
        if self.norm_images < 0:
            raise ValueError(f"norm_images must not be negative, received {self.norm_images}")

    @property
    def taps(self) -> bool:
        """Whether the form is `"taps"`."""
        return self.form == "taps" or (self.form is None and jax.default_backend() == "cpu")

    def require_gradient(self) -> None:
        """Raises ValueError where the gradient is asked for and does not exist."""
        if self.norm_images:
            raise ValueError(
                "norms on the statistics of the first images have no gradient, received "
                f"norm_images={self.norm_images}: differentiate with norm_images=0"
            )


DEFAULT = OpContext()
"""The form of the backend, and norms on the whole batch."""
