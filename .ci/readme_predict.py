"""Runs README's Predict lines as they are printed, on a small CIFAR-10 that it prepares.

The package must be the installed one, so this runs in a folder that does not hold it.
"""

import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]


def main() -> None:
    """Prepares data, runs the lines, and says which package they were run with."""
    import ppuda_jax

    if ROOT in pathlib.Path(ppuda_jax.__file__).parents and "site-packages" not in str(
        ppuda_jax.__file__
    ):
        sys.exit(f"the package of the checkout was imported, {ppuda_jax.__file__}: run this in .ci")
    sys.path.append(str(ROOT))  # behind the installed package
    from tests.data.image_sets import simple_tfds

    readme = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"^## Predict\n\n```python\n(.*?)^```", readme, re.M | re.S)
    with tempfile.TemporaryDirectory() as folder:
        simple_tfds(pathlib.Path(folder), "cifar10", shape=(32, 32, 3), classes=10)
        exec(compile(lines, "README.md", "exec"), {"DIR": folder, "__name__": "readme"})
    print(f"README's Predict lines ran with ppuda_jax {ppuda_jax.__version__}")


if __name__ == "__main__":
    main()
