"""Frames between a front and a worker."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from thanoproxy.errors import FeatureNotSupported
from thanoproxy.workers import frames, jobs
from thanoproxy.workers.frames import pack, read_frame

PREDICT = jobs.Predict("p1", "0" * 64, ["a.png", b"\x89PNG", None], top_k=3)


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


@pytest.mark.parametrize(
    "message",
    [
        PREDICT,
        jobs.Cancel("p1"),
        jobs.Load("l", "x"),
        jobs.Build("b", "MobileNet_V2", "/spool", jobs.TrainOptions(epochs=7, weights="w")),
    ],
)
async def test_a_request_arrives_as_it_was_sent(message: jobs.Request) -> None:
    reader = reader_of(pack(message) + pack(jobs.Cancel("next")))
    first = await read_frame(reader)
    assert first is not None
    assert jobs.decode_request(first) == message
    second = await read_frame(reader)
    assert second is not None
    assert jobs.decode_request(second) == jobs.Cancel("next")
    assert await read_frame(reader) is None


async def test_a_peer_that_goes_in_the_middle_of_a_frame_is_a_peer_that_is_gone() -> None:
    for length in (0, 1, 4, 20):
        assert await read_frame(reader_of(pack(PREDICT)[:length])) is None


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", msgspec.msgpack.encode({"type": "reboot"}), msgspec.msgpack.encode({"type": "cancel", "job": 1})]
)
def test_what_is_no_request_is_an_error_at_the_border(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        jobs.decode_request(payload)


def test_an_image_is_text_bytes_or_null_and_nothing_else() -> None:
    plain = {"type": "predict", "job": "p", "artifact": "x", "images": [1]}
    with pytest.raises(msgspec.ValidationError, match="an image is text, bytes or NULL"):
        jobs.decode_request(msgspec.msgpack.encode(plain))


def test_a_frame_beyond_the_limit_is_refused_where_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 1000)
    with pytest.raises(FeatureNotSupported, match="the limit is 1000"):
        pack(jobs.Predict("p", "x", [bytes(1001)]))
