"""A hypernetwork for the images that its networks are going to be trained on."""

import jax

from ppuda_jax.data.datasets import dataset_spec, spec_for
from ppuda_jax.data.names import full_name
from ppuda_jax.data.spec import DatasetSpec, trained_spec
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.transfer import with_classes


def fitted_to(
    ghn: LoadedGHN, dataset: str | None = None, data_dir: str | None = None, seed: int = 0
) -> tuple[LoadedGHN, DatasetSpec, bool]:
    """What predicts parameters for networks that are trained on some images.

    Args:
      ghn: the hypernetwork.
      dataset: see `ppuda_jax.data.datasets`; by default what it was trained on.
      data_dir: TFDS folder.
      seed: of new class heads.

    Returns:
      (the hypernetwork, with heads of its own for another number of classes; facts of the images;
      whether it was trained on them, so that it predicts the classifier too).

    Raises:
      ValueError: unknown images, or of another size than it predicts for.
      FileNotFoundError: missing data.
    """
    trained = trained_spec(ghn.metadata)
    own = dataset is None or (trained is not None and full_name(dataset) == trained.name)
    if own or dataset is None:
        return ghn, spec_for(ghn.metadata), True
    spec = dataset_spec(dataset, data_dir)
    if trained is not None and trained.image_size != spec.image_size:
        raise ValueError(
            f"{ghn.name} predicts for images of {trained.image_size} pixels, {spec.name} has "
            f"{spec.image_size}"
        )
    return with_classes(ghn, spec.num_classes, jax.random.key(seed)), spec, False
