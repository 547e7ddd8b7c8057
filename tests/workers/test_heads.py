"""Models that were trained on one frozen backbone: their rows share a batch, and each gets its own head's answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from tests.workers.conftest import Rows, build
from thanoproxy.engine import inference
from thanoproxy.workers import jobs
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.settings import WorkerSettings


async def test_rows_of_different_heads_share_a_batch(
    settings: WorkerSettings, rows: Rows, artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, batches = inference.Predictor.launch, list[int]()

    def counted(self: inference.Predictor, parts: list[inference.Part], images: list[torch.Tensor]) -> inference.Launched:
        batches.append(len({id(part.model) for part in parts}))
        assert len(parts) == batches[-1], "the rows of each model are side by side"
        return original(self, parts, images)

    monkeypatch.setattr(inference.Predictor, "launch", counted)
    pool = InlinePool(settings)
    await pool.start()
    try:
        # The other way round: what the first calls 0, the second calls 1.
        other = (await build(pool, [(image, {"red": "a", "blue": "b"}[label]) for image, label in rows], tmp_path)).artifact
        for identity in (artifact, other):
            await pool.load(jobs.Load("load", identity))
        requests = [
            jobs.Predict(f"{identity}{image}", identity, [image, "gone.png"]) for image, _ in rows for identity in (artifact, other)
        ]
        answers = await asyncio.gather(*map(pool.predict, requests))
    finally:
        await pool.close()
    assert max(batches) == 2
    for request, answer in zip(requests, answers, strict=True):
        red = int(str(request.images[0]).removesuffix(".png")) % 2 == 0
        assert answer.classes == [(int(red == (request.artifact == artifact)),), None]
