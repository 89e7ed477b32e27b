"""What installing takes: wheel, seconds, disk.

    python .ci/footprint.py . ../ppuda

Builds a wheel of each checkout and installs it with its requirements into a new environment,
without pip's cache.
"""

import pathlib
import subprocess
import sys
import tempfile
import time


def _run(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _mib(path: pathlib.Path) -> float:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.lstat().st_size for p in files) / 2**20


def measure(checkout: pathlib.Path, folder: pathlib.Path) -> str:
    """Builds and installs; returns a line of the table."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, checkout)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    _run(sys.executable, "-m", "venv", environment)
    empty, python = _mib(environment), environment / "bin" / "python"
    started = time.monotonic()
    _run(
        *(python, "-m", "pip", "--quiet", "--disable-pip-version-check"),
        *("install", "--no-cache-dir", wheel),
    )
    seconds = time.monotonic() - started
    packages = len(_run(python, "-m", "pip", "list", "--format=freeze").splitlines())
    return (
        f"{wheel.name}: wheel {_mib(wheel):.1f} MiB, {seconds:.0f} s to install, {packages} "
        f"packages of {_mib(environment) - empty:.0f} MiB"
    )


def main() -> None:
    """Measures the checkouts that are named."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(pathlib.Path(name).resolve(), pathlib.Path(folder)), flush=True)


if __name__ == "__main__":
    main()
