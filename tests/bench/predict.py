"""PREDICT over the wire with an ordinary driver, beside the best plain script with a DataLoader, in one interleaved run.

    python -m tests.bench.predict [--images N] [--rounds N] [--seconds S] [--rows N] [--models NAME …]

The script has our weights and our preprocessing, is warm, and runs at the best of several settings.  Figures are medians over rounds, and
the ratio is that of neighbours in time.  Predictions that are known from before are kept out of it, but where they are what is measured.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle

import psycopg

from tests.bench.photos import ARCHITECTURES, Rows, Stand, sql, stand
from tests.bench.running import cpu_seconds, family, percentiles, resident_kb
from tests.bench.script import PlainScript, Setting, plain_script, settings
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory
from thanoproxy.engine.device import choose

IMAGES = {"MobileNet_V2": 800, "ConvNeXt_Tiny": 160}
"""In a round on a CPU: about ten seconds on two cores."""

CACHED_PHOTOS = 800
WARM_ROWS = 200_000
STREAMED = 1000
"""Rows that the driver hands over at a time, where there are millions."""


@dataclass
class Measured:
    """One model's figures, an entry per round or statement: images per second, and ms."""

    batch: int
    ours: list[float] = field(default_factory=list)
    script: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    script_cpu: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)
    first_row: list[float] = field(default_factory=list)
    interactive: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours, self.script, strict=True))

    def figures(self) -> dict[str, float]:
        return {
            "ratio_vs_script": round(self.ratio, 3),
            "images_per_s": round(statistics.median(self.ours), 1),
            "script_images_per_s": round(statistics.median(self.script), 1),
            "cpu_ms_per_image": round(statistics.median(self.cpu), 2),
            "script_cpu_ms_per_image": round(statistics.median(self.script_cpu), 2),
            "same_labels": round(min(self.same), 4),
            "batch_ms": round(self.batch / statistics.median(self.ours) * 1e3, 1),
            "first_row_ms": round(statistics.median(self.first_row), 1),
            "interactive_p50_ms": round(percentiles(self.interactive)[0], 1),
            "interactive_p99_ms": round(percentiles(self.interactive)[1], 1),
        }


@dataclass(frozen=True)
class Subject:
    """A model of ours with the table it is measured on."""

    stand: Stand
    model: str

    def predict(self, query: str, *, known: bool = False) -> str:
        return f"PREDICT USING {self.model} {'' if known else 'OPTIONS (cache=false)'} AS {query}"

    def all(self) -> tuple[float, list[str]]:
        """Seconds for all of the table, and the labels."""
        with self.stand.connect() as connection:
            began = time.perf_counter()
            rows = connection.execute(sql(self.predict("SELECT image FROM photos ORDER BY id"))).fetchall()
            return time.perf_counter() - began, [label for _, label in rows]

    def first_row(self) -> float:
        """Milliseconds from the statement to its first row."""
        with self.stand.connect() as connection:
            began = time.perf_counter()
            rows = connection.cursor().stream(sql(self.predict("SELECT image FROM photos ORDER BY id LIMIT 64")))
            next(rows)
            taken = (time.perf_counter() - began) * 1e3
            for _ in rows:
                pass
            return taken


def measure_throughput(subject: Subject, script: PlainScript, rows: Rows, setting: Setting, rounds: int, measured: Measured) -> None:
    paths = subject.stand.photos.full(rows)
    labels: list[str] = []
    theirs: list[str] = []

    def ours() -> None:
        nonlocal labels
        before = cpu_of_all(subject.stand.served.pid)
        seconds, labels = subject.all()
        measured.ours.append(len(rows) / seconds)
        measured.cpu.append((cpu_of_all(subject.stand.served.pid) - before) / len(rows) * 1e3)

    def plain() -> None:
        nonlocal theirs
        before = cpu_of_all(script.pid)
        answer = script.order("predict", paths=paths, setting=setting)
        theirs = answer["labels"]
        measured.script.append(len(rows) / answer["seconds"])
        measured.script_cpu.append((cpu_of_all(script.pid) - before) / len(rows) * 1e3)

    ours(), plain()  # not counted: processes start, files come from the disk
    for taken in (measured.ours, measured.script, measured.cpu, measured.script_cpu):
        taken.clear()
    for turn in range(rounds):
        for work in (ours, plain) if turn % 2 == 0 else (plain, ours):
            work()
        measured.same.append(statistics.fmean(a == b for a, b in zip(labels, theirs, strict=True)))
        measured.first_row.append(subject.first_row())


def cpu_of_all(pid: int) -> float:
    """Seconds of a process and of all that it has started."""
    return sum(map(cpu_seconds, family(pid)))


def measure_interactive(subject: Subject, seconds: float, measured: Measured) -> None:
    """One image at a time, while another session predicts the whole table."""
    over = threading.Event()

    def bulk() -> None:
        with subject.stand.connect() as connection:
            while not over.is_set():
                connection.execute(sql(subject.predict("SELECT image FROM photos, generate_series(1, 2)")))

    thread = threading.Thread(target=bulk)
    thread.start()
    try:
        time.sleep(1)
        with subject.stand.connect() as connection:
            ends = time.monotonic() + seconds
            for number in cycle(range(100)):
                if time.monotonic() >= ends:
                    break
                began = time.perf_counter()
                connection.execute(sql(subject.predict(f"SELECT image FROM photos WHERE id = {number}"))).fetchall()
                measured.interactive.append((time.perf_counter() - began) * 1e3)
                time.sleep(0.02)  # or it would be bulk work, too
    finally:
        over.set()
        thread.join()


def measure_cached(subject: Subject, rows: int) -> tuple[float, float]:
    """Rows per second of which every prediction is known, and by how many MB our processes grew meanwhile."""
    with subject.stand.connect() as connection:
        _read(connection, subject, WARM_ROWS)
        pids = family(subject.stand.served.pid)

        def resident() -> float:
            return sum(map(resident_kb, pids)) / 1024

        before = most = resident()

        def look() -> None:
            nonlocal most
            most = max(most, resident())

        began = time.perf_counter()
        _read(connection, subject, rows, look)
        seconds = time.perf_counter() - began
        look()
    return rows / seconds, most - before


def _read(connection: psycopg.Connection, subject: Subject, rows: int, look: Callable[[], None] = lambda: None) -> None:
    # One photo after the other, from the first again: the planner of a join would have the same one many times in a row.
    query = f"SELECT (ARRAY(SELECT image FROM photos ORDER BY id))[1 + number % {CACHED_PHOTOS}] AS image"
    query += f" FROM (SELECT generate_series(0, {rows - 1}) AS number) AS numbers"
    seen = 0
    for seen, _ in enumerate(connection.cursor().stream(sql(subject.predict(query, known=True)), size=STREAMED), 1):
        if seen % 100_000 == 0:
            look()
    assert seen == rows, f"{seen} rows of {rows}"


def measure(stand: Stand, script: PlainScript, architecture: str, options: argparse.Namespace) -> tuple[Subject, Measured]:
    """All but the cached rows, for one architecture."""
    about = script.order("about")
    model = architecture.lower()
    stand.fill(stand.photos.some(64, "train"))
    artifact = stand.build(model, architecture, "tune='head', epochs=1")
    script.open(stand.served.artifacts, artifact)
    rows = stand.photos.some(options.images or IMAGES[architecture] * (1 if about["device"] == "cpu" else 50))
    stand.fill(rows)
    subject = Subject(stand, model)
    setting = script.best(stand.photos.full(rows)[: max(64, len(rows) // 4)], settings(about["cores"], about["device"] != "cpu"))
    measured = Measured(choose().predict_batch)
    measure_throughput(subject, script, rows, setting, options.rounds, measured)
    measure_interactive(subject, options.seconds, measured)
    print(f"{architecture}: {measured.figures()}", flush=True)
    return subject, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help=f"in a round; by default on a CPU {IMAGES}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30, help="of single images during a bulk PREDICT")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of which the predictions are known; 0 leaves that out")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_directory("thanoproxy-bench-"))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True))
        script = stack.enter_context(plain_script())
        place = stack.enter_context(stand(postgres, script, folder))
        print(f"{script.order('about')}, {options.rounds} rounds")
        found = {name: measure(place, script, name, options) for name in options.models}
        subject = next(iter(found.values()))[0]
        cached = None
        if options.rows:
            place.fill(place.photos.some(CACHED_PHOTOS))
            cached = measure_cached(subject, options.rows)
            print(f"cached rows: {cached[0]:.0f}/s, {cached[1]:.1f} MB of growth over {options.rows}")
        report({name: measured for name, (_, measured) in found.items()}, cached)


def report(found: dict[str, Measured], cached: tuple[float, float] | None) -> None:
    models = {name: measured.figures() for name, measured in found.items()}
    print(
        json.dumps(
            {
                "bench": "predict",
                "ratio_vs_script": min(figures["ratio_vs_script"] for figures in models.values()),
                "first_row_ms": max(figures["first_row_ms"] for figures in models.values()),
                "cached_rows_per_s": round(cached[0]) if cached else None,
                "rss_growth_mb": round(cached[1], 1) if cached else None,
                "models": models,
            }
        )
    )


if __name__ == "__main__":
    main()
