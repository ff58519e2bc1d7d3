"""How fast does a ViT learn from JPEG bytes? Measures decoding on the CPU's cores and on the GPU, then views and step.

In the measurement of the whole way, one batch is decoded while another one is trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows

from benchmarks.gpu.parts import Task
from benchmarks.gpu.pictures import CORES, QUALITY, Pairs, decode, read_pairs
from benchmarks.gpu.workload import Workload
from benchmarks.step.bare import Step, timed
from learner.objectives.contract import Batch
from learner.trainer import Trainer

VIEWS = 2
"""Number of views of a pair: one of each eye."""
LARGE = (1280, 720)
"""Width and height of a camera's images, to which the given ones are enlarged for a second row."""
AT_ONCE = 64
"""Number of images that are squeezed together: as numbers of four bytes they take a lot of memory."""
Decoder = Callable[[Pairs, tuple[int, int], torch.device], Batch]


def run(task: Task) -> None:
    """Measure the whole way with each decoder; then decoding alone, on the GPU and in threads, from all cores to one."""
    work = Workload.of(task).with_two_views()
    count, seconds = (256, 2.0) if task.is_full else (8, 0.3)
    small = read_pairs(Path(task.pictures), 2 * count)
    sizes = {"as they are": small, "1280x720": enlarged(small)}
    threads = sorted({1, 2, max(1, CORES // 2), CORES}, reverse=True)
    decoders: dict[str, Decoder] = {"card": on_card}
    decoders |= {f"{number} threads": partial(on_cpu, threads=number) for number in threads}
    for size, pairs in sizes.items():
        for name in ("card", f"{CORES} threads"):
            measure = partial(whole_way, decoders[name], pairs, count, work, 2 * seconds)
            task.attempt(f"learn, {size}, {name}", measure)
    for name, decoder in decoders.items():
        for size, pairs in sizes.items():
            task.attempt(f"decode, {size}, {name}", partial(decode_rate, decoder, pairs, count, work, seconds))


def enlarged(pairs: Pairs) -> Pairs:
    """Enlarge images and encode them again: the files are then as large as a camera's, with blurred content."""

    def one(data: bytes) -> bytes:
        image = cv2.resize(np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)), LARGE)
        return cv2.imencode(".jpg", image, QUALITY)[1].tobytes()

    with ThreadPoolExecutor(CORES) as pool:
        data = pool.map(one, [eye for pair in pairs for eye in pair])
        return list(zip(data, data, strict=True))  # two by two


def on_cpu(pairs: Pairs, canvas: tuple[int, int], device: torch.device, *, threads: int) -> Batch:
    """Decode with OpenCV in threads into pinned memory, and copy it to the device."""
    eyes = torch.empty(2, len(pairs), *canvas, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    aspect = torch.empty(len(pairs))
    decode(pairs, eyes[0].numpy(), eyes[1].numpy(), aspect.numpy(), threads)
    left, right = eyes.to(device, non_blocking=True)
    return Batch(left, right, aspect.to(device))


def on_card(pairs: Pairs, canvas: tuple[int, int], device: torch.device) -> Batch:
    """Decode with torchvision (nvJPEG on a GPU) in one call, and squeeze the images onto the canvas there."""
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [
        torch.frombuffer(bytearray(eye), dtype=torch.uint8) for pair in pairs for eye in pair
    ]  # nvJPEG reads from the CPU too
    images = decode_jpeg(data, mode=ImageReadMode.RGB, device=device.type)
    aspect = torch.tensor([image.shape[2] / image.shape[1] for image in images[::2]])
    at_once = AT_ONCE if len({image.shape for image in images}) == 1 else 1
    parts = (torch.stack(images[first : first + at_once]) for first in range(0, len(images), at_once))
    squeezed = [F.interpolate(part.float(), canvas, mode="bilinear", antialias=True) for part in parts]
    bgr = torch.cat(squeezed).flip(1).round_().to(torch.uint8).permute(0, 2, 3, 1)
    return Batch(bgr[::2].contiguous(), bgr[1::2].contiguous(), aspect.to(device))


def decode_rate(decoder: Decoder, pairs: Pairs, count: int, work: Workload, seconds: float) -> dict[str, Any]:
    """Return the images per second that are decoded onto the canvas and copied to the device."""
    batches = cycle((pairs[:count], pairs[-count:]))
    took_s = paced(lambda: decoder(next(batches), work.config.memory.canvas, work.device), work.device, seconds)
    bytes_ = sum(len(eye) for pair in pairs for eye in pair)
    return {"images_per_s": 2 * min(count, len(pairs)) / took_s, "bytes_an_image": bytes_ / 2 / len(pairs)}


def whole_way(decoder: Decoder, pairs: Pairs, count: int, work: Workload, seconds: float) -> dict[str, Any]:
    """Return the views per second from JPEG bytes to changed weights, with the learner's own step."""
    trainer, batches = Trainer(work.config, work.device), cycle((pairs[:count], pairs[-count:]))
    with ThreadPoolExecutor(1) as beside:

        def begin() -> Future[Batch]:
            return beside.submit(decoder, next(batches), work.config.memory.canvas, work.device)

        coming = [begin()]

        def step() -> None:
            batch = coming.pop().result()
            coming.append(begin())
            trainer.step(batch)

        step_s = paced(step, work.device, seconds)
    return {"views_per_s": VIEWS * min(count, len(pairs)) / step_s, "step_ms": 1e3 * step_s}


def paced(step: Step, device: torch.device, seconds: float) -> float:
    """Return the seconds of one step, over all that fit into this time, behind two that do not count."""
    timed(step, device, 1)
    return timed(step, device, max(1, round(seconds / timed(step, device, 1))))
