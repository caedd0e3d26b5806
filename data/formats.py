"""The file formats of images and labels. Nothing is unpickled; what cannot be read is a ValueError."""

import gzip
import pickletools
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CIFAR10_PIXELS = 3 * 32 * 32
# "P5", then width, height and maximum after white space or comments, then one white space.
PGM_HEADER = re.compile(rb"P5" + rb"(?:\s|#[^\n]*\n)+([0-9]+)" * 3 + rb"\s")


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file (LeCun's format of MNIST), gzipped or not. Raises ValueError if it is none."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"damaged gzip: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError("it does not start with the magic number of an IDX file of bytes")
    dimensions = content[3]
    if len(content) < 4 + 4 * dimensions:
        raise ValueError("its header is cut short")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if pixels.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"its header says shape {shape}, but it holds {pixels.size} bytes")
    return pixels.reshape(shape)


def parse_cifar_binary(content: bytes, label_bytes: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N,3,32,32) and labels (N,) of a file in CIFAR's binary version: rows of label bytes, the last of which counts, and 3072 pixels, red first.

    CIFAR-100 has two: the superclass and the class.
    """
    if not content or len(content) % (label_bytes + CIFAR10_PIXELS):
        raise ValueError(f"its size is no multiple of {label_bytes + CIFAR10_PIXELS} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + CIFAR10_PIXELS)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1].astype(np.int64)


def parse_cifar_pickle(content: bytes, key: str = "labels") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N,3,32,32) and labels (N,) of a file in CIFAR's python version, which is a pickled dict.

    Nothing is unpickled: the opcodes are only listed. The pixels are the longest string among their arguments, the labels are the integers of the
    list that follows the ``key``. Raises ValueError if there are none or their lengths do not fit.
    """
    pixels: bytes | bytearray = b""
    labels: list[int] = []
    in_labels = False
    for opcode, argument, _ in pickletools.genops(content):
        if isinstance(argument, (str, bytes, bytearray)):
            in_labels = argument in (key, key.encode()) and not labels
            if len(argument) > len(pixels):
                # Strings of Python 2 and byte strings of protocol 2 stand as text of one character per byte.
                pixels = argument.encode("latin-1", errors="replace") if isinstance(argument, str) else argument
        elif in_labels and opcode.name in ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1") and isinstance(argument, int):
            labels.append(argument)
    if not labels or len(pixels) != len(labels) * CIFAR10_PIXELS:
        raise ValueError(f"it holds {len(labels)} labels and {len(pixels)} bytes of pixels, {CIFAR10_PIXELS} per label are expected")
    return np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def parse_pgm(content: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The uint8 array (height, width) of a binary PGM file of 256 grey levels. Raises ValueError if it is none or of another shape than ``shape``.

    A file whose line ends were converted (LF to CRLF, as version control does it to what it takes for text) is restored.
    """
    if content.startswith(b"P5\r\n"):
        pixels = _restore_carriage_return(_pgm_pixels(content.replace(b"\r\n", b"\n"), shape), shape)
    else:
        pixels = _pgm_pixels(content, shape)
    if len(pixels) != shape[0] * shape[1]:
        raise ValueError(f"it holds {len(pixels)} bytes of pixels instead of {shape[0] * shape[1]}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _pgm_pixels(content: bytes, shape: tuple[int, int]) -> bytes:
    header = PGM_HEADER.match(content)
    if header is None:
        raise ValueError("it does not start with the header of a binary PGM file")
    width, height, maximum = (int(number) for number in header.groups())
    if (height, width, maximum) != (*shape, 255):
        raise ValueError(f"it is {height}x{width} with a maximum of {maximum}, expected is {shape[0]}x{shape[1]} with 255")
    return content[header.end() :]


def _restore_carriage_return(pixels: bytes, shape: tuple[int, int]) -> bytes:
    """Where one byte is missing, a pixel CR stood before an LF: it goes back where the image becomes smoothest. Other lengths are left as they are."""
    if len(pixels) != shape[0] * shape[1] - 1:
        return pixels
    candidates = [pixels[: at.start()] + b"\r" + pixels[at.start() :] for at in re.finditer(rb"\n", pixels)]
    return min(candidates, key=lambda candidate: _total_variation(candidate, shape), default=pixels)


def _total_variation(pixels: bytes, shape: tuple[int, int]) -> int:
    image = np.frombuffer(pixels, np.uint8).reshape(shape).astype(np.int64)
    return int(sum(np.abs(np.diff(image, axis=axis)).sum() for axis in (0, 1)))


def read_jpeg(path: Path, size: int) -> NDArray[np.uint8]:
    """The image (3, size, size) of a JPEG file of that size, or of one row and column more, which are cut off.

    Raises ValueError if it cannot be read or has another size.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG",)) as jpeg:
            if jpeg.size not in ((size, size), (size + 1, size + 1)):
                raise ValueError(f"it is {jpeg.size[0]}x{jpeg.size[1]}")
            return np.asarray(jpeg.convert("RGB"))[:size, :size].transpose(2, 0, 1)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise ValueError(f"it is no readable JPEG image{reason}") from error
