"""Makes graphs.json from outputs of the reference: `python -m tests.golden.make_graphs`.

Counts of the graphs that the reference traced, so that parity is tested where its outputs are
not at hand.
"""

import json
from pathlib import Path

import numpy as np

from tests.reference import REFERENCE, peer_nets


def main() -> None:
    """Writes graphs.json beside this file."""
    golden = []
    for net in peer_nets():
        with np.load(REFERENCE / "peer" / net["file"]) as arrays:
            primitive, lengths = arrays["primitive"], arrays["edges"][:, 2]
        golden.append(
            {
                "name": net["file"].removesuffix(".npz"),
                "net_args": net["net_args"],
                "num_params": net["n_params"],
                "primitives": np.bincount(primitive, minlength=15).tolist(),
                "one_hop_edges": int((lengths == 1).sum()),
                "path_lengths": np.bincount(lengths, minlength=51).tolist(),
            }
        )
    lines = ",\n".join(json.dumps(entry) for entry in golden)
    Path(__file__).with_name("graphs.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
