"""BUILD MODEL over the wire, beside the same training by a plain script with a DataLoader, in one interleaved run.

    python -m tests.bench.build [--images N] [--rounds N] [--models NAME …] [--tunes NAME …]

'head' is a new last layer on the frozen network, 'full' one epoch of all of it.  Both sides read the same photos, put a fifth aside and
validate on it, and are asked for the labels of photos that neither has seen.  The script is at the setting with which it trains soonest:
the one that predicts soonest, with processes that decode, may train at a third of the speed.

What a BUILD does besides is timed with it: it reads each image before it learns from any, looks for equal ones, fits a temperature and
writes the model, while the script's stays in memory.  Neither asks the system for memory anew after the first round, which is not counted.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.bench.photos import ARCHITECTURES, Rows, Stand, stand
from tests.bench.script import PlainScript, Setting, plain_script, quickest, settings
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory

TUNES = ("head", "full")
IMAGES = {("MobileNet_V2", "head"): 400, ("MobileNet_V2", "full"): 160, ("ConvNeXt_Tiny", "head"): 120, ("ConvNeXt_Tiny", "full"): 48}
"""To learn from on a CPU: about ten seconds on two cores."""

BATCH = 32

TRIED = {"MobileNet_V2": 64, "ConvNeXt_Tiny": 24}
"""Photos that the script is tried with, at each setting that there is, on a CPU."""


@dataclass
class Measured:
    """Images per second of each round (an image counts once however often it is used), and the share that was right at the end."""

    ours: list[float] = field(default_factory=list)
    script: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    script_accuracy: float = 0.0

    def figures(self) -> dict[str, float]:
        return {
            "ratio_vs_script": round(statistics.median(a / b for a, b in zip(self.ours, self.script, strict=True)), 3),
            "images_per_s": round(statistics.median(self.ours), 1),
            "script_images_per_s": round(statistics.median(self.script), 1),
            "accuracy": round(self.accuracy, 4),
            "script_accuracy": round(self.script_accuracy, 4),
        }


def measure(stand: Stand, script: PlainScript, architecture: str, tune: str, options: argparse.Namespace) -> Measured:
    about = script.order("about")
    cuda = about["device"] != "cpu"
    rows = stand.photos.some(options.images or IMAGES[architecture, tune] * (50 if cuda else 1), "train")
    test = stand.photos.some(100 if architecture == "MobileNet_V2" or cuda else 30, "test")
    batch = 256 if cuda else BATCH
    stand.fill(rows)
    made = f"tune='{tune}', epochs=1, batch_size={batch}"
    script.open(stand.served.artifacts, stand.build("bench", architecture, made))
    choices = sorted({(batch, workers, threads) for _, workers, threads in settings(about["cores"], cuda)})
    few = rows[: TRIED[architecture] if not cuda else len(rows)]
    setting = quickest(len(few), choices, lambda one: train(stand, script, architecture, few, [], tune, one)["seconds"])
    measured = Measured()

    def ours() -> None:
        began = time.perf_counter()
        stand.build("bench", architecture, made)
        measured.ours.append(len(rows) / (time.perf_counter() - began))

    def plain() -> None:
        answer = train(stand, script, architecture, rows, test, tune, setting)
        measured.script.append(len(rows) / answer["seconds"])
        measured.script_accuracy = right(answer["labels"], test)

    plain()  # not counted: its processes start
    measured.script.clear()
    for turn in range(options.rounds):
        for work in (ours, plain) if turn % 2 == 0 else (plain, ours):
            work()
    measured.accuracy = accuracy(stand, test)
    print(f"{architecture} {tune}: {measured.figures()}", flush=True)
    return measured


def train(stand: Stand, script: PlainScript, architecture: str, rows: Rows, test: Rows, tune: str, setting: Setting) -> dict[str, Any]:
    return script.order(
        "train",
        tune=tune,
        published=str(stand.weights[architecture]),
        paths=stand.photos.full(rows),
        labels=[label for _, label in rows],
        test=stand.photos.full(test),
        setting=setting,
        epochs=1,
    )


def accuracy(stand: Stand, test: Rows) -> float:
    """Of the model built last."""
    stand.fill(test, "unseen")
    with stand.connect() as connection:
        found = connection.execute("PREDICT USING bench AS SELECT image FROM unseen ORDER BY id").fetchall()
    return right([label for _, label in found], test)


def right(labels: Sequence[str], rows: Rows) -> float:
    return statistics.fmean(label == true for label, (_, true) in zip(labels, rows, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="to learn from; by default on a CPU 48 to 400")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--tunes", nargs="+", choices=TUNES, default=TUNES)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_directory("thanoproxy-bench-"))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True))
        script = stack.enter_context(plain_script())
        place = stack.enter_context(stand(postgres, script, folder))
        print(f"{script.order('about')}, {options.rounds} rounds")
        found = {f"{name} {tune}": measure(place, script, name, tune, options) for name in options.models for tune in options.tunes}
        figures = {name: measured.figures() for name, measured in found.items()}
        worst = min(one["ratio_vs_script"] for one in figures.values())
        print(json.dumps({"bench": "build", "ratio_vs_script": worst, "trainings": figures}))


if __name__ == "__main__":
    main()
