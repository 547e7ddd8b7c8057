"""Text put together from a client's and our own, and the way back from a position in it."""

from __future__ import annotations

__all__ = ["Source"]


class Source:
    """The text that is sent, and where each piece of it comes from in the client's."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, int | None]] = []

    def add(self, text: str, start: int | None = None) -> None:
        """Append `text`; `start` is its 0-based offset in the client's text, None if it is ours."""
        self.pieces.append((text, start))

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def position(self, position: int) -> int | None:
        """The client's position for one in the sent text, both 1-based; None where it lies in a piece of ours."""
        offset = 0
        for text, start in self.pieces:
            if position <= offset + len(text):
                return None if start is None else position - offset + start
            offset += len(text)
        return None

    def extend(self, other: Source) -> None:
        """Append all of `other`."""
        self.pieces += other.pieces
