"""Packaging; settings are in setup.cfg but for what cannot be said there.

The commands of `experiments` are installed as `ppuda_jax.cli`, for the script `ppuda-jax`;
benchmarks and checks, which need a checkout, are left out.
"""

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

_CLI = "ppuda_jax.cli"
_OF_A_CHECKOUT = ("bench_", "check_", "peer", "own_network")


class BuildPy(build_py):
    """Leaves out modules that are not installed."""

    def find_package_modules(self, package, package_dir):
        """(package, module, file) of each module of a package."""
        found = super().find_package_modules(package, package_dir)
        if package != _CLI:
            return found
        return [entry for entry in found if not entry[1].startswith(_OF_A_CHECKOUT)]


setup(
    packages=[*find_namespace_packages(include=["ppuda_jax*"]), _CLI, f"{_CLI}.configs"],
    package_dir={_CLI: "experiments"},
    cmdclass={"build_py": BuildPy},
)
