"""How fast does a ViT learn from JPEG bytes? Measures decoding on the CPU's cores and on the GPU, then views and step.

In the measurement of the whole way, one batch is decoded while another one is trained on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows

from benchmarks.gpu.pictures import QUALITY, decoded, pairs_of
from benchmarks.gpu.task import Task
from benchmarks.gpu.workload import Workload
from benchmarks.step.bare import Step, timed
from learner.objectives.contract import Batch
from learner.trainer import Trainer

VIEWS = 2
"""Number of views of a pair: one of each eye."""
LARGE = (1280, 720)
"""Width and height of a camera's images, to which the given ones are enlarged for a second row."""
MEASURE_S = 2.0
AT_ONCE = 64
"""Number of images that are squeezed together: as numbers of four bytes they take a lot of memory."""
Pairs = Sequence[tuple[bytes, bytes]]
Decoder = Callable[[Pairs, tuple[int, int], torch.device], Batch]


def run(task: Task) -> None:
    """Decode in threads, from one to all cores, and on the GPU; then measure the whole way with each decoder."""
    work = Workload.of(task).with_two_views()
    count, seconds = (256, MEASURE_S) if task.is_full else (8, 0.3)
    files = pairs_of(Path(task.pictures))[: 2 * count]
    small = [(left.read_bytes(), right.read_bytes()) for left, right in files]
    cores = len(os.sched_getaffinity(0))
    sizes = {"as they are": small, "1280x720": enlarged(small)}
    threads = sorted({1, 2, max(1, cores // 2), cores})
    decoders: dict[str, Decoder] = {f"{number} threads": partial(on_cpu, threads=number) for number in threads}
    decoders["card"] = on_card
    for size, pairs in sizes.items():
        for name, decode in decoders.items():
            task.attempt(f"decode, {size}, {name}", partial(decode_rate, decode, pairs, count, work, seconds))
    for size, pairs in sizes.items():
        for name in (f"{cores} threads", "card"):
            measure = partial(whole_way, decoders[name], pairs, count, work, 2 * seconds)
            task.attempt(f"learn, {size}, {name}", measure)


def enlarged(pairs: Pairs) -> Pairs:
    """Enlarge images and encode them again: the files are then as large as a camera's, with blurred content."""

    def one(data: bytes) -> bytes:
        image = cv2.resize(np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)), LARGE)
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()

    with ThreadPoolExecutor() as pool:
        data = list(pool.map(one, [eye for pair in pairs for eye in pair]))
    return list(zip(data[::2], data[1::2], strict=True))


def on_cpu(pairs: Pairs, canvas: tuple[int, int], device: torch.device, *, threads: int) -> Batch:
    """Decode with OpenCV in threads into pinned memory, and copy it to the device."""
    cv2.setNumThreads(1)
    eyes = torch.empty(2, len(pairs), *canvas, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    aspect = torch.empty(len(pairs))

    def put(index: int) -> None:
        for eye, data in enumerate(pairs[index]):
            image, aspect[index] = decoded(data, canvas)
            eyes[eye, index] = torch.from_numpy(image)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(len(pairs))))
    there = eyes.to(device, non_blocking=True)
    return Batch(there[0], there[1], aspect.to(device))


def on_card(pairs: Pairs, canvas: tuple[int, int], device: torch.device) -> Batch:
    """Decode with torchvision (nvJPEG on a GPU) in one call, and squeeze the images onto the canvas there."""
    from torchvision.io import ImageReadMode, decode_jpeg

    split: Any = torch.split  # untyped in PyTorch

    data = [torch.from_numpy(np.frombuffer(eye, np.uint8).copy()) for pair in pairs for eye in pair]
    images = decode_jpeg(data, mode=ImageReadMode.RGB, device=device.type)
    aspect = torch.tensor([image.shape[2] / image.shape[1] for image in images[::2]])
    of_one_size = len({image.shape for image in images}) == 1
    parts = split(torch.stack(images), AT_ONCE) if of_one_size else [image[None] for image in images]
    squeezed = [F.interpolate(part.float(), canvas, mode="bilinear", antialias=True) for part in parts]
    bgr = torch.cat(squeezed).flip(1).round_().to(torch.uint8).permute(0, 2, 3, 1)
    return Batch(bgr[::2].contiguous(), bgr[1::2].contiguous(), aspect.to(device))


def decode_rate(decode: Decoder, pairs: Pairs, count: int, work: Workload, seconds: float) -> dict[str, Any]:
    """Return the images per second that are decoded onto the canvas and copied to the device."""
    batches = cycle((pairs[:count], pairs[-count:]))
    took_s = paced(lambda: decode(next(batches), work.config.memory.canvas, work.device), work.device, seconds)
    bytes_ = sum(len(eye) for pair in pairs for eye in pair)
    return {"images_per_s": 2 * min(count, len(pairs)) / took_s, "bytes_an_image": bytes_ / 2 / len(pairs)}


def whole_way(decode: Decoder, pairs: Pairs, count: int, work: Workload, seconds: float) -> dict[str, Any]:
    """Return the views per second from JPEG bytes to changed weights, with the learner's own step."""
    trainer, batches = Trainer(work.config, work.device), cycle((pairs[:count], pairs[-count:]))
    with ThreadPoolExecutor(1) as beside:

        def decoding() -> Future[Batch]:
            return beside.submit(decode, next(batches), work.config.memory.canvas, work.device)

        coming = [decoding()]

        def step() -> None:
            batch = coming.pop().result()
            coming.append(decoding())
            trainer.step(batch)

        step_s = paced(step, work.device, seconds)
    return {"views_per_s": VIEWS * min(count, len(pairs)) / step_s, "step_ms": 1e3 * step_s}


def paced(step: Step, device: torch.device, seconds: float) -> float:
    """Return the seconds of one step, over all that fit into this time, behind a few that do not count."""
    timed(step, device, 2)
    return timed(step, device, max(1, round(seconds / timed(step, device, 1))))
