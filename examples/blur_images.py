"""Blur a pile of photographs, each in place, by all CPUs; the same with the stdlib's pool and with joblib beside it.

    python examples/blur_images.py                         four frames of 24 megapixels, made up
    python examples/blur_images.py --photos ~/Pictures     every photograph in a folder (needs Pillow)
    python examples/blur_images.py --megapixels 1          smaller frames

Writes before.png and after.png, of the first picture, into --out. joblib is timed where it is installed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import treadle
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (height, width, 3)

RADIUS = 12
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}


# --- the job: the mean over a window, along the rows and then along the columns


def blur_lines(part: Image, axis: int) -> None:
    """Replaces each pixel by the mean of those around it in its line; the border's pixels are repeated beyond it."""
    lines = np.moveaxis(part, axis, 0)
    for start in range(0, lines.shape[1], 64):  # some lines at a time, so that the sums stay in the cache
        some = lines[:, start : start + 64]
        padded = np.concatenate([some[:1]] * (RADIUS + 1) + [some] + [some[-1:]] * RADIUS)
        sums = np.cumsum(padded, axis=0, dtype=np.uint32)
        some[...] = (sums[2 * RADIUS + 1 :] - sums[: -2 * RADIUS - 1]) // (2 * RADIUS + 1)


def blurred_lines(part: Image, axis: int) -> Image:
    """The same for pools that send a part there, and have to send it back."""
    part = part.copy()
    blur_lines(part, axis)
    return part


def bands(image: Image, axis: int, count: int) -> list[Image]:
    """The image cut into pieces of whole lines along this axis."""
    return np.array_split(image, count, axis=1 - axis)


# --- with each pool


def with_treadle(images: list[Image], workers: int) -> None:
    """The workers write into the images: nothing is sent but where they are."""
    with treadle.ProcessPoolExecutor(workers) as pool:
        for image in images:
            for axis in (1, 0):
                list(pool.map(blur_lines, bands(image, axis, 4 * workers), [axis] * 4 * workers))


def with_stdlib(images: list[Image], workers: int) -> None:
    """Each band is pickled, sent, pickled again and sent back."""
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        for image in images:
            for axis in (1, 0):
                parts = bands(image, axis, 4 * workers)
                for part, done in zip(parts, pool.map(blurred_lines, parts, [axis] * len(parts)), strict=True):
                    part[...] = done


def with_joblib(images: list[Image], workers: int) -> None:
    """Joblib writes large bands into files that the workers map; the results are pickled."""
    from joblib import Parallel, delayed  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with Parallel(workers) as parallel:
        for image in images:
            for axis in (1, 0):
                parts = bands(image, axis, 4 * workers)
                done: Any = parallel(delayed(blurred_lines)(part, axis) for part in parts)
                for part, result in zip(parts, done, strict=True):
                    part[...] = result


# --- pictures


def made_up(pixels: float, seed: int) -> Image:
    """A landscape of sorts: a sky, hills, and grain."""
    height, width = int((pixels / 1.5) ** 0.5), int((pixels * 1.5) ** 0.5)
    random = np.random.default_rng(seed)
    y, x = np.ogrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    image = np.empty((height, width, 3), np.uint8)
    hills = 0.55 + 0.1 * np.sin(9 * x + seed) + 0.05 * np.sin(31 * x)
    for channel, (sky, ground) in enumerate([(110, 60), (160, 110), (230, 50)]):
        image[..., channel] = np.where(y < hills, sky * (0.6 + 0.4 * y), ground * (1.2 - 0.6 * y))
    image += random.integers(0, 24, (height, width, 1), np.uint8)
    image[height // 8 : height // 4, width // 6 : width // 6 + height // 8] = (255, 244, 200)
    return image


def photographs(folder: Path) -> Iterator[Image]:
    from PIL import Image as Pillow  # type: ignore[import-not-found,unused-ignore]

    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            yield np.asarray(Pillow.open(path).convert("RGB"))


def write_png(path: Path, image: Image) -> None:
    """PNG, the plainest way: each line unfiltered, one block of zlib's."""
    height, width, _ = image.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = np.zeros((height, 1 + width * 3), np.uint8)
    lines[:, 1:] = image.reshape(height, -1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 1))
        + chunk(b"IEND", b"")
    )


# --- all of it


def timed(name: str, run: Callable[[list[Image], int], None], images: list[Image], workers: int) -> float:
    start = time.perf_counter()
    run(images, workers)
    seconds = time.perf_counter() - start
    print(f"  {name:<12} {seconds:6.2f} s")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--megapixels", type=float, default=24, help="of each made-up frame")
    parser.add_argument("--frames", type=int, default=4, help="how many to make up")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(), help="where the pictures are written")
    options = parser.parse_args()
    if options.photos:
        originals = list(photographs(options.photos))
    else:
        originals = [made_up(options.megapixels * 1e6, seed) for seed in range(options.frames)]
    if not originals:
        sys.exit(f"no photograph in {options.photos}")
    total = sum(image.nbytes for image in originals)
    print(f"{len(originals)} pictures, {total / 1e6:.0f} MB, with {options.workers} workers:")

    shared = [treadle.shared.copy(image) for image in originals]
    ours = timed("treadle", with_treadle, shared, options.workers)
    peers: list[tuple[str, Callable[[list[Image], int], None]]] = [("stdlib", with_stdlib)]
    try:
        import joblib  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401

        peers.append(("joblib", with_joblib))
    except ImportError:
        print("  joblib is not installed")
    for name, run in peers:
        images = [image.copy() for image in originals]
        seconds = timed(name, run, images, options.workers)
        same = all(np.array_equal(a, b) for a, b in zip(images, shared, strict=True))
        print(f"  {'':<12} {seconds / ours:6.2f} times as long, {'the same pictures' if same else 'OTHER PICTURES'}")
    options.out.mkdir(parents=True, exist_ok=True)
    write_png(options.out / "before.png", originals[0])
    write_png(options.out / "after.png", shared[0])
    print(f"{options.out / 'before.png'}, {options.out / 'after.png'}")


if __name__ == "__main__":
    main()
