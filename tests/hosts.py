"""Several hosts on one machine, for tests of what they do together."""

import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
_TRIES = 3
_LIMIT_S = 600  # only ends what hangs: hosts wait for each other


def run_hosts(code: str, *args: str, count: int = 2) -> None:
    """Runs `code` as each host with arguments (address, host, *args); all must end well.

    The port is free when it is chosen and may be taken when it is used: then another one is.
    """
    for left in reversed(range(_TRIES)):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        hosts = [
            subprocess.Popen(
                [sys.executable, "-c", code, address, str(host), *args],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for host in range(count)
        ]
        try:
            outputs = [process.communicate(timeout=_LIMIT_S)[0] for process in hosts]
        finally:
            for process in hosts:
                process.kill()
        if left and any("already in use" in output.lower() for output in outputs):
            continue
        assert [process.returncode for process in hosts] == [0] * count, outputs
        return
