"""Pictures of any mode and size to the RGB squares that networks see.

Legend: `h`, `w` sides of a picture, `s` image side.
"""

import io
import struct

import numpy as np
from PIL import Image

from ppuda_jax.data.source import DatasetError, Picture

_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L")
# What Pillow raises for damaged files, by format and by where it notices.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def to_rgb(picture: Picture, where: str) -> np.ndarray:
    """Turns a picture into uint8 [h, w, 3].

    Grey is repeated, transparency is laid on black (the colour that crops are padded with),
    palettes are looked up and 16 bits are scaled to 8.

    Args:
        picture: PNG or JPEG bytes, or uint8 [h, w] or [h, w, 1, 3 or 4].
        where: what messages call it.

    Raises:
        DatasetError: no image, or pixels of another shape.
    """
    if isinstance(picture, np.ndarray):
        return _array_to_rgb(picture, where)
    try:
        with Image.open(io.BytesIO(picture)) as image:
            if image.mode in _SIXTEEN_BIT:
                wide = np.asarray(image).astype(np.float64)
                return _array_to_rgb(np.round(wide / 257).clip(0, 255).astype(np.uint8), where)
            if "A" in image.getbands() or "transparency" in image.info:
                return _array_to_rgb(np.asarray(image.convert("RGBA")), where)
            return np.asarray(image.convert("RGB"))
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{where}: no readable PNG or JPEG image ({type(error).__name__}: {error}); replace "
            f"or remove it"
        ) from error


def _array_to_rgb(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise DatasetError(
            f"{where}: an image must be [h, w], or [h, w, channels] with 1, 3 or 4 channels, "
            f"received {list(pixels.shape)}"
        )
    if pixels.shape[2] == 4:
        opacity = pixels[..., 3:].astype(np.float64) / 255
        return np.round(pixels[..., :3] * opacity).astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def centre_square(image: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """Resizes the short side and cuts the centre: uint8 [h, w, 3] -> [size, size, 3].

    Args:
        image: the picture.
        size: `s`.
        short_side: of the resized picture; at least `size`.
    """
    height, width, _ = image.shape
    if (height, width, short_side) == (size, size, size):
        return image
    scale = short_side / min(height, width)
    resized = (max(size, round(width * scale)), max(size, round(height * scale)))
    picture = Image.fromarray(image).resize(resized, Image.Resampling.BILINEAR)
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
