"""What tells networks apart, also where they have the same name."""

import hashlib
import json

from ppuda_jax.archs.genotypes import NetConfig


def fingerprint(record: NetConfig | str | None, num_classes: int, image_size: int) -> str:
    """Sixteen hexadecimal digits that differ for different networks.

    Args:
      record: of a network of DeepNets-1M, or the name of a hand-made model.
      num_classes: K.
      image_size: pixels per side.
    """
    plain = record.to_dict() if isinstance(record, NetConfig) else record
    text = json.dumps([plain, num_classes, image_size], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
