"""Converts a hypernetwork to or from the format of the PyTorch reference.

python -m experiments.convert_checkpoint ghn2_cifar10.pt my_folder     # to this package
python -m experiments.convert_checkpoint my_folder ghn2_cifar10.pt     # for PyTorch users

The source may be anything that `load_ghn` takes: a .pt file, a folder, a training run, or a
shipped name. The suffix of the target decides its format. A run's folder leaves its settings, its
length and its learning curve in the metadata of the folder that is written.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax

from ppuda_jax.checkpoints import load_ghn, save_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.convert.files import save_torch_ghn
from ppuda_jax.training.history import with_history

from . import flags


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """The two files."""

    source: str = described(dataclasses.MISSING, ".pt file, folder, training run or shipped name")
    target: str = described(dataclasses.MISSING, ".pt file to write, else a folder")

    def __post_init__(self) -> None:
        check_types(self)


def run(options: ConvertConfig) -> str:
    """Converts; returns what was written."""
    target = pathlib.Path(options.target)
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another name or remove it")
    ghn = with_history(load_ghn(options.source))
    if target.suffix in (".pt", ".pth"):
        save_torch_ghn(ghn, target)
    else:
        save_ghn(target, ghn)
    size = sum(leaf.size for leaf in jax.tree.leaves(dict(ghn.theta)))
    return f"wrote {target}: {size:,} parameters, {ghn.config}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(ConvertConfig, run, __doc__, argv, positional=("source", "target"))


if __name__ == "__main__":
    main()
