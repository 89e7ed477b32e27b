"""Converts a hypernetwork between the PyTorch reference's format and this package's.

python -m experiments.convert_checkpoint ghn2_cifar10.pt my_folder     # to this package
python -m experiments.convert_checkpoint my_folder ghn2_cifar10.pt     # for PyTorch users

The source may be anything that `load_ghn` takes: a .pt file, a folder, a training run, or a
shipped name. The suffix of the target decides its format. A run's folder leaves its settings, its
length and its learning curve in the metadata of the folder that is written.
"""

import argparse
import pathlib
from collections.abc import Sequence

import jax

from ppuda_jax.checkpoints import load_ghn, save_ghn
from ppuda_jax.convert.files import save_torch_ghn
from ppuda_jax.training.history import with_history


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, converts and prints what was written.

    Raises:
      SystemExit: the source cannot be read or the target exists.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=".pt file, folder, training run or shipped name")
    parser.add_argument("target", help=".pt file to write, else a folder")
    args = parser.parse_args(argv)
    target = pathlib.Path(args.target)
    if target.exists():
        parser.error(f"{target} exists already: choose another name or remove it")
    try:
        ghn = with_history(load_ghn(args.source))
        if target.suffix in (".pt", ".pth"):
            save_torch_ghn(ghn, target)
        else:
            save_ghn(target, ghn)
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    size = sum(leaf.size for leaf in jax.tree.leaves(dict(ghn.theta)))
    print(f"wrote {target}: {size:,} parameters, {ghn.config}")


if __name__ == "__main__":
    main()
