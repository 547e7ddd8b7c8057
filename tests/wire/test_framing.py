"""The walks: whatever the chunks, every byte goes on in order, and what must be seen is seen."""

from __future__ import annotations

import itertools
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uncompiled import from_source, is_compiled
from thanoproxy.statements import MARKS
from thanoproxy.wire import framing as imported
from thanoproxy.wire import messages
from thanoproxy.wire.messages import SYNC, message, query

PLAIN = query(b"SELECT 1")
OURS = query(b"PREDICT USING m AS SELECT 1")


@pytest.fixture(scope="module", params=["python", "compiled"])
def framing(request: pytest.FixtureRequest) -> ModuleType:
    """Everything here holds for the module as it is and as it is compiled."""
    if request.param == "python":
        return from_source(imported)
    if not is_compiled(imported):
        pytest.skip("not compiled: there was no C compiler at installation")
    return imported


def test_what_is_compiled_is_what_is_written() -> None:
    for name, ending in (("wire.framing", ".py"), ("wire.search", ".pyx"), ("session.transport", ".py"), ("session.polled", ".pyx")):
        if not is_compiled(imported):
            pytest.skip("not compiled: there was no C compiler at installation")
        compiled = Path(import_module(f"thanoproxy.{name}").__file__ or "")
        source = compiled.with_name(name.rpartition(".")[2] + ending)
        assert compiled.stat().st_mtime >= source.stat().st_mtime, f"{name} changed since it was compiled: pip install -e ."


def frontend(framing: ModuleType) -> Any:
    owed = framing.Owed()
    owed.clear()
    if framing is imported and is_compiled(imported):
        return framing.FrontendWalk(owed, import_module("thanoproxy.wire.search").SearchedMarks(MARKS))
    return framing.FrontendWalk(owed, framing.Marks(MARKS))


def feed(walk: Any, chunks: list[bytes]) -> bytes:
    """What goes on when the chunks come one by one, with the rest held as a session holds it."""
    gone, rest = b"", b""
    for chunk in chunks:
        data = rest + chunk
        going = walk.walk(data)
        gone, rest = gone + data[:going], data[going:]
        if walk.candidate:
            break
    return gone


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class TestFrontend:
    @given(st.lists(st.integers(0, 10_000), max_size=12))
    def test_ordinary_messages_go_on_whatever_the_chunks(self, framing: ModuleType, places: list[int]) -> None:
        data = PLAIN + messages.parse(messages.Parse(b"s", b"SELECT 2")) + messages.execute(b"") + SYNC + message(b"d", b"x" * 300)
        walk = frontend(framing)
        assert feed(walk, cut(data, places)) == data
        assert bytes(walk.owed.ready) == b"QS"

    @given(st.lists(st.integers(0, 10_000), max_size=12))
    def test_it_stops_before_a_candidate(self, framing: ModuleType, places: list[int]) -> None:
        walk = frontend(framing)
        assert feed(walk, cut(PLAIN + SYNC + OURS, places)) == PLAIN + SYNC
        assert walk.candidate

    def test_a_text_beyond_the_limit_is_relayed_unseen(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        data = query(b"INSERT " + b"PREDICT" * (framing.LARGEST_TEXT // 7 + 1))
        assert walk.walk(data[:1000]) == 1000
        assert walk.walk(data[1000:]) == len(data) - 1000

    def test_a_claimed_length_allocates_nothing(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        assert walk.walk(b"d\x7f\xff\xff\xff1234") == 9

    def test_an_impossible_length_makes_it_blind(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        assert walk.walk(b"Q\0\0\0\x03" + OURS) == 5 + len(OURS)
        assert not walk.candidate

    def test_names_of_ours_are_asked_about(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        walk.concerns = lambda kind, data, start, end: kind == ord("E") and data[start:end].startswith(b"p\0")
        bind = messages.bind(messages.Bind(b"p", b"s", b""))
        assert walk.walk(bind + messages.execute(b"p")) == len(bind)
        assert walk.candidate

    def test_a_sync_during_copy_in_is_not_owed(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        walk.walk(messages.parse(messages.Parse(b"", b"COPY t FROM STDIN")) + messages.execute(b"") + SYNC)
        walk.owed.copying()  # the server answers CopyInResponse: it has swallowed that Sync
        walk.walk(message(b"d", b"1\n") + SYNC + message(b"c") + SYNC)
        assert bytes(walk.owed.ready).count(b"S") == 1

    def test_what_a_login_says_is_not_owed_a_reply(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        walk.walk(message(b"p", b"SCRAM-SHA-256\0") + message(b"p", b"c=biws"))
        assert not walk.owed.unsynced, "a session that has only logged in is idle"

    def test_a_copy_in_a_simple_query_owes_one(self, framing: ModuleType) -> None:
        walk = frontend(framing)
        walk.walk(query(b"COPY t FROM STDIN"))
        walk.owed.copying()
        walk.walk(message(b"d", b"1\n") + message(b"c"))
        assert bytes(walk.owed.ready) == b"Qc"
        walk.owed.answered()
        assert not walk.owed.ready


@given(st.lists(st.sampled_from([*(mark.decode() for mark in MARKS), "predict", "Mode", "l", " ", "i", "mage", "E", "é", "\0", "P"])))
def test_the_search_in_c_finds_what_the_one_in_python_finds(words: list[str]) -> None:
    if not is_compiled(imported):
        pytest.skip("not compiled: there was no C compiler at installation")
    text = "".join(words).encode()
    data = b"PREDICT" + text + b"MODEL"
    for marks in (imported.Marks(MARKS), import_module("thanoproxy.wire.search").SearchedMarks(MARKS)):
        assert marks.found(data, 7, 7 + len(text)) == any(mark in text.upper() for mark in MARKS)
        marks.change((b"\xc3\xa9",))
        assert marks.found(data, 7, 7 + len(text)) == ("é" in "".join(words))


class TestBackend:
    def backend(self, framing: ModuleType) -> tuple[Any, list[bytes]]:
        seen: list[bytes] = []
        return framing.BackendWalk(framing.Owed(), seen.append, seen.append), seen

    @given(st.lists(st.integers(0, 10_000), max_size=12))
    def test_status_and_settings_are_seen_whatever_the_chunks(self, framing: ModuleType, places: list[int]) -> None:
        walk, seen = self.backend(framing)
        setting = message(b"S", b"client_encoding\0LATIN1\0")
        data = message(b"T", b"\0\0") + message(b"D", b"Z\0\0\0\x05I" * 20) + setting + message(b"Z", b"T")
        assert feed(walk, cut(data, places)) == data
        assert walk.status == ord("T")
        assert seen == [b"client_encoding\0LATIN1\0"]
        assert not walk.owed.ready

    def test_rows_go_on_before_they_are_whole(self, framing: ModuleType) -> None:
        walk, _ = self.backend(framing)
        row = message(b"D", b"x" * 1000)
        assert walk.walk(row[:100]) == 100
        assert walk.walk(row[100:]) == len(row) - 100


@given(st.lists(st.tuples(st.sampled_from(b"DTZC"), st.binary(max_size=40)), max_size=8), st.integers(0, 100))
def test_split_frames(framing: ModuleType, parts: list[tuple[int, bytes]], missing: int) -> None:
    frames = [(kind, message(bytes((kind,)), body)) for kind, body in parts]
    data = b"".join(frame for _, frame in frames)
    buffer = bytearray(data[: max(0, len(data) - missing)])
    found = list(framing.split_frames(buffer))
    assert found == frames[: len(found)]
    buffer += data[max(0, len(data) - missing) :]
    assert found + list(framing.split_frames(buffer)) == frames
    assert not buffer
