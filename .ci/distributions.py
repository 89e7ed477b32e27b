"""Checks what a wheel and an sdist hold: `python .ci/distributions.py FOLDER`."""

import pathlib
import sys
import tarfile
import zipfile

_MOST_MIB = 8.0  # the shipped GHN takes 5.7 of them
_NEEDED = (
    "ppuda_jax/py.typed",
    "ppuda_jax/assets/ghn2-cifar10/theta/manifest.ocdbt",
    "ppuda_jax/cli/__main__.py",
    "ppuda_jax/cli/configs/__init__.py",
    "ppuda_jax/cli/predict.py",
)
_FOREIGN = ("experiments/", "tests/", "docs/", "ppuda_jax/cli/bench_", "ppuda_jax/cli/check_")


def main() -> None:
    """Looks into the one wheel and the one sdist of a folder; exits with 1 if something is off."""
    folder = pathlib.Path(sys.argv[1])
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    faults = [f"{wheel.name} lacks {name}" for name in _NEEDED if name not in names]
    faults += [f"{wheel.name} holds {name}" for name in names if name.startswith(_FOREIGN)]
    assets = {path.name for path in pathlib.Path("ppuda_jax/assets").rglob("*") if path.is_file()}
    there = {pathlib.PurePath(name).name for name in names if "/assets/" in name}
    faults += [f"{wheel.name} lacks the asset {name}" for name in sorted(assets - there)]
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    faults += [
        f"{source.name} lacks {name}"
        for name in ("setup.py", "setup.cfg", "README.md", "LICENSE", "experiments/predict.py")
        if name not in held
    ]
    for path in (wheel, source):
        size = path.stat().st_size / 2**20
        print(f"{path.name}: {size:.1f} MiB")
        if size > _MOST_MIB:
            faults.append(f"{path.name} takes more than {_MOST_MIB} MiB")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
