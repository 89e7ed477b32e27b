"""Prints setup.cfg's requirements at their lower bounds, as constraints for pip."""

import configparser
import pathlib
import re
import sys

_BOUND = re.compile(r"([A-Za-z0-9_.-]+)>=([^,;\s]+)")


def main() -> None:
    """Reads `install_requires` and the extras named on the command line."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(pathlib.Path(__file__).parents[1] / "setup.cfg")
    text = settings["options"]["install_requires"]
    text += "".join(settings["options.extras_require"][name] for name in sys.argv[1:])
    for name, version in _BOUND.findall(text):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
