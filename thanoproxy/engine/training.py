"""Training all of a network: the steps, the rates, and what is kept.

Every function that touches many batches is a generator that yields at each batch boundary, so that whoever drives it can let
somebody else use the device in between, or stop.
"""

from __future__ import annotations

import hashlib
import math
import time
from array import array
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import torch
from torch import nn
from torch.nn import functional

from thanoproxy.engine.checkpoint import State
from thanoproxy.engine.dataset import Augment, Batch, Dataset, Split, batches
from thanoproxy.engine.device import Device, is_out_of_memory
from thanoproxy.engine.draws import Draws
from thanoproxy.engine.frozen import Frozen
from thanoproxy.engine.head import LOGITS, Scores, read, written
from thanoproxy.engine.interrupting import GoOn, call_between_layers
from thanoproxy.engine.lighter import lighter
from thanoproxy.engine.progress import Meter, Step
from thanoproxy.engine.shares import Alone, Ranks, Result, Share
from thanoproxy.engine.staging import Pace, open_staging
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.models.preprocessing import normalize
from thanoproxy.workers import jobs

SETTLING = 16
"""Batches that batch norm's statistics are averaged over."""

__all__ = ["Limits", "Trained", "Trainer", "rate_at"]


@dataclass
class Trained:
    """The best epoch's number, scores and state dict, and one log entry per epoch."""

    best: int = 0
    scores: Scores | None = None
    training: Scores | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    log: list[jobs.Epoch] = field(default_factory=list)


class Limits(NamedTuple):
    """When to stop before the last epoch: after `patience` epochs that were no better, or once the job has run for `seconds`."""

    patience: int | None = None
    seconds: float | None = None

    def late(self, meter: Meter) -> bool:
        return self.seconds is not None and meter.seconds >= self.seconds


UNLIMITED = Limits()


class Trainer:
    """Trains `network` in place on the rows of `dataset`.

    `fresh` tells that the weights were drawn at random, so that batch norm has to learn its statistics; pretrained ones are
    kept, since the batches of a short fine-tune are a poor sample.

    `go_on` may raise in the middle of a batch, where that is long: it is called between layers on a CPU.

    `state` is all that it needs to go on after an epoch, and `restore` takes it over, before `run`.
    """

    def __init__(
        self,
        network: nn.Module,
        architecture: Architecture,
        recipe: Recipe,
        dataset: Dataset,
        split: Split,
        device: Device,
        *,
        fresh: bool,
        class_weights: torch.Tensor | None = None,
        ranks: Ranks | None = None,
        go_on: GoOn | None = None,
    ) -> None:
        self.network = network
        self.architecture = architecture
        self.recipe = recipe
        self.dataset = dataset
        self.split = split
        self.device = device
        self.fresh = fresh
        self.micro_batch = self._first_part()
        self.class_weights = (dataset.class_weights(split.training) if class_weights is None else class_weights).to(device.device)
        self.ranks = ranks or Alone(dataset)
        self.epochs_done = self.steps_done = 0
        self.kept = Trained()
        self._staging = open_staging(device)
        self._pace = Pace(self._staging, device.depth)
        network.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # On a GPU, where it is not measured yet, the network learns as it is.
        self._learning = network if device.is_cuda else lighter(network, keeps_statistics=not fresh)
        if go_on is not None and not device.is_cuda:
            call_between_layers(self._learning, go_on)
        self._draws = Draws(self._learning)
        self.optimizer = self._optimizer()
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]

    def run(
        self,
        meter: Meter,
        *,
        epochs: int,
        seed: int,
        augment: bool,
        first_epoch: int = 1,
        limits: Limits = UNLIMITED,
        keep: Callable[[], None] = lambda: None,
    ) -> Generator[Step, None, Trained]:
        """Train for `epochs`, validate after each, and keep the best (the last, if there is nothing to validate on).

        `keep` is called where `state` can be taken.
        """
        images = len(self.split.training)
        total = epochs * math.ceil(images / self.recipe.batch_size)
        yield meter.begin("training", epochs * images, self.epochs_done * images)
        while (why := self._why_over(limits, meter, total)) is None:
            yield from self._epoch(meter, total, seed, augment, limits, first_epoch)
            keep()
            yield meter.report(self.kept.log[-1])
        if why:
            yield meter.remark(why)
        return self.kept

    def state(self) -> State:
        kept = msgspec.to_builtins(replace(self.kept, state={}, scores=None, training=None))
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "micro_batch": self.micro_batch,
            "done": [self.epochs_done, self.steps_done],
            "kept": {**kept, "state": self.kept.state, "scores": written(self.kept.scores), "training": written(self.kept.training)},
        }

    def restore(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.micro_batch = state["micro_batch"]
        self.epochs_done, self.steps_done = state["done"]
        kept = state["kept"]
        plain = msgspec.convert({**kept, "state": {}, "scores": None, "training": None}, Trained)
        self.kept = replace(plain, state=kept["state"], scores=read(kept["scores"]), training=read(kept["training"]))

    def _epoch(self, meter: Meter, total: int, seed: int, augment: bool, limits: Limits, first_epoch: int) -> Generator[Step, None, None]:
        """The next epoch of `total` steps in all, as far as time allows; at least one step of it."""
        started, seen, epoch = time.monotonic(), _Sums(self.device), self.epochs_done
        plan = batches(self.split.training, self.recipe.batch_size, seed, epoch)
        with closing(self.ranks.shares(plan, Augment(seed, epoch) if augment else None)) as shares:
            for share in shares:
                factor = rate_at(self.steps_done, total, self.recipe.warmup)
                for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                    group["lr"] = peak * factor
                result = yield from self._step(share, seed, meter)
                for news in self.ranks.news():
                    yield meter.remark(*news)
                if result is None:
                    continue
                seen.add(share.whole, *result)
                self.steps_done += 1
                self._pace.step()
                if meter.due:
                    meter.measured(seen.loss, seen.accuracy)
                yield meter.advance(share.whole)
                if limits.late(meter):
                    break
        meter.measured(seen.loss, seen.accuracy)
        yield from self._settle_batch_norm(plan, meter)
        check = yield from self.validate(meter)
        self.epochs_done += 1
        kept = self.kept
        kept.log.append(_log_entry(first_epoch + epoch, seen, check, self.recipe.learning_rate * factor, started))
        if _better(check, kept.scores):
            kept.best, kept.scores, kept.training = self.epochs_done, check, Scores(seen.loss, seen.accuracy)
            kept.state = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def _why_over(self, limits: Limits, meter: Meter, total: int) -> str | None:
        """What to tell the client when it is; None where training goes on."""
        if self.steps_done == total:
            return ""
        if self.epochs_done and limits.late(meter):
            return f"max_seconds: training was stopped in epoch {self.epochs_done}, and what has been learnt is kept"
        waited = self.epochs_done - self.kept.best
        if limits.patience is not None and waited >= limits.patience:
            return f"early_stopping: epoch {self.kept.best} is kept, since the {waited} after it were no better"
        return None

    def validate(self, meter: Meter) -> Generator[Step, None, Scores | None]:
        """Scores on the validation rows; None if there are none."""
        rows = self.split.validation
        if not rows:
            return None
        size = max(1, min(self.device.predict_batch, self.micro_batch))
        loaded = self.dataset.batches([rows[at : at + size] for at in range(0, len(rows), size)], None)
        sums, seen = _Sums(self.device), list[tuple[torch.Tensor, torch.Tensor]]()
        frozen = Frozen(self.network, self.architecture, self.dataset.preprocessing, self.device)
        meter.switch("validating")
        with closing(loaded):
            for batch in loaded:
                logits, labels = self._evaluate(frozen, batch)
                loss = functional.cross_entropy(logits, labels)
                sums.add(len(batch.rows), loss, (logits.argmax(1) == labels).sum())
                if sums.images * logits.shape[1] <= LOGITS:
                    seen.append((logits.cpu(), labels.cpu()))
                yield meter.advance(0)
        meter.switch("training")
        return Scores(sums.loss, sums.accuracy, *map(torch.cat, zip(*seen, strict=True)))

    def _settle_batch_norm(self, plan: list[array[int]], meter: Meter) -> Generator[Step, None, None]:
        """Average batch norm's statistics afresh over some training batches, with the weights as they are now.

        In a short training the running averages lag far behind the weights (0.95 right in training, 0.18 in validation).
        """
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        if not self.fresh or not norms:
            return
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # all batches weigh the same
        meter.switch("validating")
        self.network.train()
        loaded = self.dataset.batches([rows for rows in plan[:SETTLING] if len(rows) > 1], None)
        with closing(loaded):
            for batch in loaded:
                self._forward(batch)
                yield meter.advance(0)
        for norm in norms:
            norm.momentum = 0.1
        meter.switch("training")

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        with self._autocast(), self._staging.on_device(batch.pixels) as pixels:
            for at in range(0, len(batch.rows), self.micro_batch):
                self.network(self._images(pixels[at : at + self.micro_batch]))

    @torch.inference_mode()
    def _evaluate(self, frozen: Frozen, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with self._staging.on_device(batch.pixels) as pixels:
            logits = frozen.logits(pixels)
        return logits, self._staging.small(batch.labels)

    def _step(self, share: Share, seed: int, meter: Meter) -> Generator[Step, None, Result | None]:
        """One optimizer step; the batch's mean loss and how many were right, on the device: to fetch them now would have it wait.

        None where a rank was lost: then nothing has changed.
        """
        seed = _step_seed(seed, self.steps_done)
        result = yield from self.ranks.total(share, seed, lambda: self.gradients(share, seed, meter))
        if result is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
            self.optimizer.step()
        return result

    def gradients(self, share: Share, seed: int, meter: Meter) -> Generator[Step, None, Result]:
        """Leave the gradients of a share in the network; what it adds to the batch's mean loss, and how many were right.

        What is dropped depends on `seed` alone: not on how the batch is divided, nor on what others draw meanwhile.

        Out of memory, it is done again in smaller parts whose gradients add up to the same.
        """
        optimizer = self.optimizer
        while True:
            optimizer.zero_grad(set_to_none=True)
            try:
                return (yield from self._gradients(share, seed, meter))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.micro_batch == 1:
                    raise DeviceOutOfMemory("not even one image fits into the device's memory for training") from None
            optimizer.zero_grad(set_to_none=True)
            self.device.release()
            self.micro_batch = max(1, min(self.micro_batch, len(share.batch.rows)) // 2)

    def _gradients(self, share: Share, seed: int, meter: Meter) -> Generator[Step, None, Result]:
        """Of a share, part by part."""
        batch = share.batch
        self._train_mode(len(batch.rows))
        labels = self._staging.small(batch.labels)
        weight = self.class_weights[labels].sum() if share.weight is None else share.weight
        loss_sum, right = torch.zeros((), device=self.device.device), torch.zeros((), dtype=torch.int64, device=self.device.device)
        with self._staging.on_device(batch.pixels) as pixels:
            for at in range(0, len(labels), self.micro_batch):
                if at:
                    yield meter.advance(0)
                part = labels[at : at + self.micro_batch]
                with self._autocast(), self._draws.part(share.whole, share.places[at : at + self.micro_batch], seed):
                    logits = self._learning(self._images(pixels[at : at + self.micro_batch])).float()
                smoothing = self.recipe.label_smoothing
                loss = functional.cross_entropy(logits, part, self.class_weights, reduction="sum", label_smoothing=smoothing)
                (loss / weight).backward()  # type: ignore[no-untyped-call]
                loss_sum += loss.detach()
                right += (logits.detach().argmax(1) == part).sum()
        return loss_sum / weight, right

    def _first_part(self) -> int:
        """How many images are trained on at once, until memory says less."""
        learns_statistics = self.fresh and any(isinstance(module, nn.BatchNorm2d) for module in self.network.modules())
        most = None if learns_statistics else self.device.train_part  # statistics are those of a whole batch
        return self.recipe.batch_size if most is None else min(most, self.recipe.batch_size)

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalize(pixels, self.dataset.preprocessing, torch.float32)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.device.type, torch.bfloat16, enabled=self.device.is_cuda)

    def _train_mode(self, size: int) -> None:
        self._learning.train()
        if self.fresh and size > 1:
            return
        for module in self._learning.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW with a rate for each depth, and no decay for biases, norms and scales."""
        named = list(self.network.named_parameters())
        deepest = self.architecture.deepest(name for name, _ in named)
        groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, parameter in named:
            key = (self.architecture.depth(name), sum(side > 1 for side in parameter.shape) > 1)
            groups.setdefault(key, []).append(parameter)
        recipe = self.recipe
        return torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "lr": recipe.learning_rate * (recipe.head_factor if depth == deepest else recipe.layer_decay ** (deepest - 1 - depth)),
                    "weight_decay": recipe.weight_decay if decays else 0.0,
                }
                for (depth, decays), parameters in groups.items()
            ],
            fused=True,  # one kernel for a group, not one for each of its parameters and operations
        )


def rate_at(step: int, total: int, warmup: float) -> float:
    """The learning rate at `step` of `total` as a share of its peak: linear up for the first `warmup`, then a half cosine down."""
    rising = max(1, round(total * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest(), "big", signed=True)


def _better(new: Scores | None, old: Scores | None) -> bool:
    if new is None or old is None:
        return True
    return (new.accuracy, -new.loss) > (old.accuracy, -old.loss)


class _Sums:
    """Running means over images, summed on the device; reading one waits for it."""

    def __init__(self, device: Device) -> None:
        self.images = 0
        self._loss = torch.zeros((), dtype=torch.float64, device=device.device)
        self._right = torch.zeros((), dtype=torch.int64, device=device.device)

    def add(self, images: int, loss: torch.Tensor, right: torch.Tensor) -> None:
        self.images += images
        self._loss += loss.detach().double() * images
        self._right += right

    @property
    def loss(self) -> float:
        return float(self._loss) / max(1, self.images)

    @property
    def accuracy(self) -> float:
        return int(self._right) / max(1, self.images)


def _log_entry(epoch: int, seen: _Sums, check: Scores | None, rate: float, started: float) -> jobs.Epoch:
    return jobs.Epoch(
        epoch=epoch,
        loss=seen.loss,
        accuracy=seen.accuracy,
        validation_loss=check.loss if check else None,
        validation_accuracy=check.accuracy if check else None,
        learning_rate=rate,
        seconds=time.monotonic() - started,
    )
