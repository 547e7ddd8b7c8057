"""Text put together from a client's and our own, and the way back from a position in it."""

from __future__ import annotations

__all__ = ["Source"]


class Source:
    """The text that is sent, and where each piece of it comes from in the client's; it begins as `add` goes on.

    Where what is called the client's text here was itself put together, `outer` knows the way back from there.
    """

    def __init__(self, text: str = "", start: int | None = None) -> None:
        self.pieces: list[tuple[str, int | None]] = [(text, start)] if text else []
        self.outer: Source | None = None

    def add(self, text: str, start: int | None = None) -> None:
        """Append `text`; `start` is its 0-based offset in the client's text, None if it is ours."""
        self.pieces.append((text, start))

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def position(self, position: int) -> int | None:
        """The client's position for one in the sent text, both 1-based; None if nothing of the client's stands there or before it.

        What is found behind the client's text ("syntax error at end of input", or at the parenthesis that we put there) is at its end.
        """
        found = self._position(position)
        return found if found is None or self.outer is None else self.outer.position(found)

    def _position(self, position: int) -> int | None:
        offset, behind = 0, None
        for text, start in self.pieces:
            if position <= offset + len(text):
                return behind if start is None else position - offset + start
            offset += len(text)
            behind = behind if start is None else start + len(text) + 1
        return behind

    def extend(self, other: Source) -> None:
        """Append all of `other`."""
        self.pieces += other.pieces
