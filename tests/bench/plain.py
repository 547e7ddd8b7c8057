"""What an engineer writes without thanoproxy: plain torch and torchvision with a DataLoader, on whatever device there is.

    python -m tests.bench.plain

Orders are lines of JSON on standard input, and each is answered by one on standard output; so the process is warm when it is timed, as a
server is.  `tests.bench.script` is the other end.  Nothing of thanoproxy is used here.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

try:
    from torchcodec.decoders import decode_jpeg
except (ImportError, OSError, RuntimeError):
    from torchvision.io import decode_jpeg

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CUDA = DEVICE.type == "cuda"


class Pixels(NamedTuple):
    """How an image becomes a network's input."""

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Setting(NamedTuple):
    """What there is to tune: images in a batch, processes of the DataLoader, and threads that compute."""

    batch: int
    workers: int
    threads: int


class Photos(Dataset[torch.Tensor]):
    """uint8 (3, crop, crop) of each path; normalising a whole batch afterwards is cheaper, and a quarter of the bytes is sent."""

    def __init__(self, paths: Sequence[str], pixels: Pixels, *, augment: bool = False) -> None:
        self.paths = paths
        whole = [v2.Resize(pixels.resize, InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop(pixels.crop)]
        part = [v2.RandomResizedCrop(pixels.crop, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose(part if augment else whole)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.paths[index], "rb") as file:
            data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        return self.transform(decode_jpeg(data)), index


class Script:
    """One network, and what is done with it."""

    def __init__(self, architecture: str, weights: str, classes: list[str], pixels: dict[str, Any]) -> None:
        self.architecture, self.classes = architecture, classes
        self.setting = Setting(0, 0, 0)
        self.loaders: dict[tuple[tuple[str, ...], bool], DataLoader[Any]] = {}
        self.pixels = Pixels(pixels["resize"], pixels["crop"], tuple(pixels["mean"]), tuple(pixels["std"]))
        self.network = self.place(self.load(load_file(weights))).eval()

    def predict(self, paths: list[str], setting: list[int]) -> dict[str, object]:
        """Labels of these paths."""
        self.use(Setting(*setting))
        began = time.perf_counter()
        labels = [self.classes[of] for of in self.classify(self.network, paths)]
        return {"seconds": time.perf_counter() - began, "labels": labels}

    def train(
        self, tune: str, published: str, paths: list[str], labels: list[str], test: list[str], setting: list[int], epochs: int
    ) -> dict[str, object]:
        """From published weights, a new head ('head') or all of the network ('full'); labels of `test` by what was learnt, not timed."""
        self.use(Setting(*setting))
        began = time.perf_counter()
        targets = torch.tensor([self.classes.index(label) for label in labels])
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
        aside = len(order) // 5
        known = {name: one for name, one in load_file(published).items() if not name.startswith(f"classifier.{self.last}.")}
        network = self.place(self.load(known))
        fit = self.fit_head if tune == "head" else functools.partial(self.fit_all, epochs=epochs)
        fit(network, paths, targets, order[aside:], order[:aside])
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "labels": [self.classes[of] for of in self.classify(network, test)]}

    # Networks.

    def load(self, tensors: dict[str, torch.Tensor]) -> nn.Module:
        network: nn.Module = getattr(torchvision.models, self.architecture.lower())(num_classes=len(self.classes))
        network.load_state_dict(tensors, strict=False)
        return network

    @property
    def last(self) -> int:
        return {"MobileNet_V2": 1, "ConvNeXt_Tiny": 2}[self.architecture]

    def place(self, network: nn.Module) -> nn.Module:
        return network.to(DEVICE, memory_format=torch.channels_last)

    def use(self, setting: Setting) -> None:
        if setting != self.setting:
            self.loaders.clear()
        self.setting = setting
        torch.set_num_threads(setting.threads)

    # Passes over images.

    def loader(self, paths: list[str], *, augment: bool) -> DataLoader[Any]:
        """Kept, so that its processes are started once."""
        key = tuple(paths), augment
        if key not in self.loaders:
            self.loaders[key] = DataLoader(
                Photos(paths, self.pixels, augment=augment),
                batch_size=self.setting.batch,
                shuffle=augment,
                num_workers=self.setting.workers,
                persistent_workers=self.setting.workers > 0,
                pin_memory=CUDA,
            )
        return self.loaders[key]

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        images = v2.functional.to_dtype(pixels.to(DEVICE, non_blocking=True), torch.float32, scale=True)
        return v2.functional.normalize(images, self.pixels.mean, self.pixels.std).contiguous(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA)

    @torch.inference_mode()
    def classify(self, network: nn.Module, paths: list[str]) -> list[int]:
        network.eval()
        found: list[int] = []
        for pixels, _ in self.loader(paths, augment=False):
            with self.autocast():
                found += network(self.normalized(pixels)).argmax(1).tolist()
        return found

    # Training.

    def fit_head(self, network: nn.Module, paths: list[str], targets: torch.Tensor, training: list[int], validation: list[int]) -> None:
        """Features of the frozen network once, then logistic regression on them."""
        head = network.classifier[self.last]
        network.classifier[self.last] = nn.Identity()
        network.eval()
        parts = []
        with torch.no_grad():
            for pixels, _ in self.loader(paths, augment=False):
                with self.autocast():
                    parts.append(network(self.normalized(pixels)).float())
        network.classifier[self.last] = head
        features, labels = torch.cat(parts), targets.to(DEVICE)
        solver = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            value = nn.functional.cross_entropy(head(features[training]), labels[training]) + 1e-3 * head.weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
        with torch.no_grad():
            nn.functional.cross_entropy(head(features[validation]), labels[validation]).item()

    def fit_all(
        self,
        network: nn.Module,
        paths: list[str],
        targets: torch.Tensor,
        training: list[int],
        validation: list[int],
        epochs: int,
    ) -> None:
        """Fine-tuning with random crops, validated after each epoch."""
        loader = self.loader([paths[row] for row in training], augment=True)
        labels = targets[training].to(DEVICE)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, total_steps=epochs * len(loader))
        for _ in range(epochs):
            network.train()
            for pixels, rows in loader:
                optimizer.zero_grad(set_to_none=True)
                with self.autocast():
                    logits = network(self.normalized(pixels)).float()
                nn.functional.cross_entropy(logits, labels[rows.to(DEVICE)], label_smoothing=0.1).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            self.classify(network, [paths[row] for row in validation])


def invent(architecture: str, file: str) -> dict[str, object]:
    """Random weights in the place of published ones: how fast a network is does not hang on them."""
    torch.manual_seed(0)
    more = {"layer_scale": 0.1} if architecture.startswith("ConvNeXt") else {}
    save_file(getattr(torchvision.models, architecture.lower())(**more).state_dict(), file)
    return {}


def about() -> dict[str, object]:
    return {"device": torch.cuda.get_device_name() if CUDA else "cpu", "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    answers, sys.stdout = sys.stdout, sys.stderr
    script: Script | None = None
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        verb = order.pop("do")
        if verb == "open":
            script, answer = Script(**order), {}
        else:
            answer = {"invent": invent, "about": about}.get(verb, getattr(script, verb, None))(**order)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
