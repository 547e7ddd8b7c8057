"""Pictures made on the spot, for every test that needs some."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

RED, BLUE, WHITE = (220, 30, 30), (30, 30, 220), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """`image` in the format `kind`, as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def blocks(width: int = 60, height: int = 40) -> Image.Image:
    """Four quarters, each of another colour, so that a turn or a flip shows."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height // 2))
    image.paste((30, 220, 30), (0, height // 2, width // 2, height))
    image.paste((20, 20, 20), (width // 2, height // 2, width, height))
    return image


def noisy(color: tuple[int, int, int], seed: int, side: int = 40) -> Image.Image:
    """A colour with noise: no two seeds give the same bytes."""
    noise = np.random.default_rng(seed).integers(-25, 26, (side, side, 3))
    return Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8))


def write_red_and_blue(folder: Path, count: int) -> list[tuple[str, str]]:
    """`count` PNG files below `folder`, half of them red and half blue; (file name, label) of each, in turn."""
    rows = []
    for number in range(count):
        label, color = (("red", RED), ("blue", BLUE))[number % 2]
        noisy(color, number).save(folder / f"{number}.png")
        rows.append((f"{number}.png", label))
    return rows
