"""Media in their own formats: pictures, sound, moving pictures, albums; most are compressed, raw frames are not."""

from __future__ import annotations

import io
import math
import random
import struct
import wave
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dwcp.fleet import corpus
from dwcp.fleet.payloads.objects import Maker, Spec

if TYPE_CHECKING:
    from PIL.Image import Image

_SOUND_HZ = 44_100


# -- pictures --


@cache
def _large_pictures() -> tuple[Path, ...]:
    found = [path for path in corpus.files("media") if path.suffix in (".png", ".jpg") and path.stat().st_size > 9_000]
    return tuple(sorted(found))


def _picture(width: int, rng: random.Random) -> Image:
    """A scene with the grain of a camera: waves and edges, or a real picture of this machine, resized."""
    from PIL import Image

    noise = np.random.default_rng(rng.randrange(2**32))
    height = max(6, width * 3 // 4)
    grain = rng.uniform(0, 2) if rng.random() < 0.4 else rng.uniform(2, 20)
    if rng.random() < 0.5 and _large_pictures():
        with Image.open(rng.choice(_large_pictures())) as real:
            scene = np.asarray(real.convert("RGB").resize((width, height)), dtype=np.float32)
    else:
        y, x = np.arange(height)[:, None] / width, np.arange(width)[None, :] / width
        waves = [np.sin(x * rng.uniform(2, 30) + rng.random() * 6) * np.cos(y * rng.uniform(2, 30)) for _ in range(3)]
        scene = np.stack(waves, axis=2).astype(np.float32) * 60 + 128
    scene = scene + noise.standard_normal(scene.shape, dtype=np.float32) * np.float32(grain)
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def _draw(image: Image, dirty: float, rng: random.Random) -> None:
    """Fill three rectangles of about ``dirty`` of the picture's area together."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    side = max(2, int(image.width * math.sqrt(dirty) / 2))
    for _ in range(3):
        at = rng.randrange(image.width), rng.randrange(image.height)
        draw.rectangle((*at, at[0] + side, at[1] + side), fill=tuple(rng.randrange(256) for _ in range(3)))


_SAVED: dict[str, tuple[str, dict[str, object]]] = {
    "jpeg": ("JPEG", {"quality": 88}),
    "png": ("PNG", {"compress_level": 3}),
    "webp": ("WEBP", {"quality": 80, "method": 0}),
    "gif": ("GIF", {}),
    "bitmap": ("BMP", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
}
_MOST_WIDTH = 4_000


def _image(spec: Spec, name: str) -> Iterator[bytes]:
    """A picture that is drawn on and saved again: where it is compressed, nearly all its bytes change."""
    rng = spec.rng()
    form, options = _SAVED[name]

    def saved(image: Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    scene = rng.randrange(2**32)
    width = max(8, min(320, int(math.sqrt(spec.size / 2))))
    for _ in range(2):  # how much a scene comes to is known once it has been saved
        area = spec.size / len(saved(_picture(width, random.Random(scene))))  # noqa: S311
        width = max(8, min(_MOST_WIDTH, int(width * math.sqrt(area))))
    image = _picture(width, random.Random(scene))  # noqa: S311
    for _ in range(spec.versions):
        yield saved(image)
        _draw(image, spec.dirty, rng)


def _frames(spec: Spec) -> Iterator[bytes]:
    """Raw video frames, 8 bits of luminance, of one camera: a version is the next frames; what stands still stays."""
    rng = spec.rng()
    side = max(16, min(1_024, int(math.sqrt(spec.size / 4))))
    base = np.asarray(_picture(side, rng).convert("L"))
    count = max(1, spec.size // base.size)
    box = max(4, int(side * math.sqrt(min(1.0, spec.dirty))))
    noise = np.random.default_rng(rng.randrange(2**32))
    for _ in range(spec.versions):
        frames = np.repeat(base[None], count, axis=0)
        for frame in frames:
            top, left = rng.randrange(max(1, base.shape[0] - box)), rng.randrange(max(1, base.shape[1] - box))
            part = frame[top : top + box, left : left + box]
            part += noise.integers(0, 40, part.shape, np.uint8)
        yield frames.tobytes()


def _motion_jpeg(spec: Spec) -> Iterator[bytes]:
    """Frames of a camera, each a JPEG; a version drops the oldest and adds new ones."""
    from PIL import Image

    rng = spec.rng()
    image = _picture(max(16, min(480, int(math.sqrt(spec.size / 3)))), rng)

    def frame() -> bytes:
        shown = Image.blend(image, image.rotate(rng.uniform(-3, 3)), 0.5)
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=75)
        return buffer.getvalue()

    # Beyond 300 frames the camera shows what it has shown: a loop, as test recordings are.
    reel = [frame()]
    count = max(1, spec.size // len(reel[0]))
    reel += [frame() for _ in range(min(count, 300) - 1)]
    shown = [reel[n % len(reel)] for n in range(count)]
    for _ in range(spec.versions):
        yield b"".join(shown)
        for _ in range(max(1, int(count * spec.dirty))):
            shown.pop(0)
            shown.append(frame())


# -- sound --


def _sound(spec: Spec) -> Iterator[bytes]:
    """16-bit PCM in a WAV file; a version overdubs a stretch of it."""
    rng = spec.rng()
    noise = np.random.default_rng(rng.randrange(2**32))
    count = max(20, spec.size // 2)
    clock = np.arange(count) / _SOUND_HZ

    def tone(at: slice, most: float) -> NDArray[np.float64]:
        return np.asarray(np.sin(2 * np.pi * rng.uniform(80, 2_000) * clock[at]) * rng.uniform(most / 8, most))

    everything = slice(None)
    samples = noise.normal(size=count) * 10 ** rng.uniform(0, 3) + sum(tone(everything, 4_000) for _ in range(5))
    for _ in range(spec.versions):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(_SOUND_HZ)
            file.writeframes(np.clip(samples, -32_768, 32_767).astype("<i2").tobytes())
        yield buffer.getvalue()
        run = max(1, int(count * spec.dirty))
        start = rng.randrange(max(1, count - run))
        samples[start : start + run] += tone(slice(start, start + run), 3_000)


def _sensor(spec: Spec) -> Iterator[bytes]:
    """A ring of 12-bit samples, packed three bytes for two as drivers do; the newest replace the oldest."""
    rng = spec.rng()
    noise = np.random.default_rng(rng.randrange(2**32))
    count = max(2, spec.size // 3) * 2
    rough = rng.uniform(0.3, 20)

    def samples(much: int) -> NDArray[np.uint16]:
        return np.asarray(np.cumsum(noise.normal(size=much) * rough) % 4_096, dtype=np.uint16)

    ring, head = samples(count), 0
    for _ in range(spec.versions):
        first, second = ring[::2], ring[1::2]
        packed = np.stack([first & 0xFF, (first >> 8) | ((second & 0xF) << 4), second >> 4], axis=1)
        yield struct.pack("<II", count, head) + packed.astype(np.uint8).tobytes()
        much = max(2, int(count * spec.dirty))
        ring[(head + np.arange(much)) % count] = samples(much)
        head = (head + much) % count


# -- many files --


def _album(spec: Spec) -> Iterator[bytes]:
    """Media files of this machine one after another; a version replaces some of them."""
    rng = spec.rng()
    source = corpus.pieces("media", rng)
    most = max(256, spec.size // 6)
    files: list[bytes] = []
    filled = 0
    while filled < spec.size:
        files.append(next(source)[1][:most])
        filled += len(files[-1])
    for _ in range(spec.versions):
        yield b"".join(files)
        changed = 0
        while changed < spec.size * spec.dirty:
            place = rng.randrange(len(files))
            files[place] = next(source)[1][:most]
            changed += len(files[place])


KINDS: dict[str, Maker] = {
    **{name: partial(_image, name=name) for name in _SAVED},
    "frames": _frames,
    "motion_jpeg": _motion_jpeg,
    "sound": _sound,
    "sensor": _sensor,
    "album": _album,
}
