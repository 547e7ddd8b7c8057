"""The walks: whatever the chunks, every byte goes on in order, and what must be seen is seen."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from thanoproxy.statements import interesting
from thanoproxy.wire import messages
from thanoproxy.wire.framing import LARGEST_TEXT, BackendWalk, FrontendWalk, Owed, split_frames
from thanoproxy.wire.messages import SYNC, message, query

PLAIN = query(b"SELECT 1")
OURS = query(b"PREDICT USING m AS SELECT 1")


def frontend() -> FrontendWalk:
    owed = Owed()
    owed.clear()
    return FrontendWalk(owed, interesting)


def feed(walk: FrontendWalk | BackendWalk, chunks: list[bytes]) -> bytes:
    """What goes on when the chunks come one by one, with the rest held as a session holds it."""
    gone, rest = b"", b""
    for chunk in chunks:
        data = rest + chunk
        going = walk.walk(data)
        gone, rest = gone + data[:going], data[going:]
        if isinstance(walk, FrontendWalk) and walk.candidate:
            break
    return gone


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class TestFrontend:
    @given(st.lists(st.integers(0, 10_000), max_size=12))
    def test_ordinary_messages_go_on_whatever_the_chunks(self, places: list[int]) -> None:
        data = PLAIN + messages.parse(messages.Parse(b"s", b"SELECT 2")) + messages.execute(b"") + SYNC + message(b"d", b"x" * 300)
        walk = frontend()
        assert feed(walk, cut(data, places)) == data
        assert bytes(walk.owed.ready) == b"QS"

    @given(st.lists(st.integers(0, 10_000), max_size=12))
    def test_it_stops_before_a_candidate(self, places: list[int]) -> None:
        walk = frontend()
        assert feed(walk, cut(PLAIN + SYNC + OURS, places)) == PLAIN + SYNC
        assert walk.candidate

    def test_a_text_beyond_the_limit_is_relayed_unseen(self) -> None:
        walk = frontend()
        data = query(b"INSERT " + b"PREDICT" * (LARGEST_TEXT // 7 + 1))
        assert walk.walk(data[:1000]) == 1000
        assert walk.walk(data[1000:]) == len(data) - 1000

    def test_a_claimed_length_allocates_nothing(self) -> None:
        walk = frontend()
        assert walk.walk(b"d\x7f\xff\xff\xff1234") == 9

    def test_an_impossible_length_makes_it_blind(self) -> None:
        walk = frontend()
        assert walk.walk(b"Q\0\0\0\x03" + OURS) == 5 + len(OURS)
        assert not walk.candidate

    def test_names_of_ours_are_asked_about(self) -> None:
        walk = frontend()
        walk.concerns = lambda kind, data, start, end: kind == ord("E") and data[start:end].startswith(b"p\0")
        bind = messages.bind(messages.Bind(b"p", b"s", b""))
        assert walk.walk(bind + messages.execute(b"p")) == len(bind)
        assert walk.candidate

    def test_a_sync_during_copy_in_is_not_owed(self) -> None:
        walk = frontend()
        walk.walk(messages.parse(messages.Parse(b"", b"COPY t FROM STDIN")) + messages.execute(b"") + SYNC)
        walk.owed.copying()  # the server answers CopyInResponse: it has swallowed that Sync
        walk.walk(message(b"d", b"1\n") + SYNC + message(b"c") + SYNC)
        assert bytes(walk.owed.ready).count(b"S") == 1

    def test_a_copy_in_a_simple_query_owes_one(self) -> None:
        walk = frontend()
        walk.walk(query(b"COPY t FROM STDIN"))
        walk.owed.copying()
        walk.walk(message(b"d", b"1\n") + message(b"c"))
        assert bytes(walk.owed.ready) == b"Qc"
        walk.owed.answered()
        assert not walk.owed.ready


class TestBackend:
    def backend(self) -> tuple[BackendWalk, list[bytes]]:
        seen: list[bytes] = []
        owed = Owed()
        return BackendWalk(owed, seen.append, seen.append), seen

    @given(st.lists(st.integers(0, 10_000), max_size=12))
    def test_status_and_settings_are_seen_whatever_the_chunks(self, places: list[int]) -> None:
        walk, seen = self.backend()
        setting = message(b"S", b"client_encoding\0LATIN1\0")
        data = message(b"T", b"\0\0") + message(b"D", b"Z\0\0\0\x05I" * 20) + setting + message(b"Z", b"T")
        assert feed(walk, cut(data, places)) == data
        assert walk.status == ord("T")
        assert seen == [b"client_encoding\0LATIN1\0"]
        assert not walk.owed.ready

    def test_rows_go_on_before_they_are_whole(self) -> None:
        walk, _ = self.backend()
        row = message(b"D", b"x" * 1000)
        assert walk.walk(row[:100]) == 100
        assert walk.walk(row[100:]) == len(row) - 100


@given(st.lists(st.tuples(st.sampled_from(b"DTZC"), st.binary(max_size=40)), max_size=8), st.integers(0, 100))
def test_split_frames(parts: list[tuple[int, bytes]], missing: int) -> None:
    frames = [(kind, message(bytes((kind,)), body)) for kind, body in parts]
    data = b"".join(frame for _, frame in frames)
    buffer = bytearray(data[: max(0, len(data) - missing)])
    found = list(split_frames(buffer))
    assert found == frames[: len(found)]
    buffer += data[max(0, len(data) - missing) :]
    assert found + list(split_frames(buffer)) == frames
    assert not buffer
