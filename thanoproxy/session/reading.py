"""A session's reading of its client's texts: what is ours in them, given the settings that govern lexing."""

from __future__ import annotations

from thanoproxy import statements
from thanoproxy.errors import FeatureNotSupported
from thanoproxy.session.names import Names
from thanoproxy.sql.encoding import codec
from thanoproxy.statements import Part
from thanoproxy.statements.mentions import Mention, mentions, named_anew

__all__ = ["Reader"]

_VERDICTS = 512


class Reader:
    """Of one session."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._settings = {b"client_encoding": "UTF8", b"standard_conforming_strings": "on"}
        self._foreign: dict[bytes, None] = {}
        self._edition = -1

    @property
    def codec(self) -> str | None:
        """Python's name for the client's encoding, None if texts in it cannot be looked at."""
        return codec(self._settings[b"client_encoding"])

    def learn(self, setting: bytes, value: str) -> None:
        """A ParameterStatus."""
        if setting in self._settings:
            self._settings[setting] = value
            self._foreign.clear()

    def read(self, text: bytes) -> list[Part] | None:
        """The statements of a message's text, None if none is ours.  Raises where one is ours and cannot be understood."""
        decoded = self._decoded(text)
        if decoded is None:
            return None
        parts = statements.recognise(decoded)
        if parts is None:
            # It goes to the server, which may give a view another name by it, or make one of it.
            self.names.add(named_anew(decoded, self.names.all))
            if not mentions(decoded, self.names.all):
                self._forget(text)
        return parts

    def mentions(self, text: bytes) -> tuple[str, list[Mention]]:
        """The text, and where it reads what may be a view that holds predictions."""
        decoded = self._decoded(text) if self.names.all else None
        return ("", []) if decoded is None else (decoded, mentions(decoded, self.names.all))

    def _decoded(self, text: bytes) -> str | None:
        """None if nothing of ours is in it.  What was found not to be ours is remembered for a while."""
        marks = self.names.marks
        if marks.edition != self._edition:
            self._edition = marks.edition
            self._foreign.clear()
        name = self.codec
        if name is None or text in self._foreign or b"\0" in text or not marks.found(text, 0, len(text)):
            return None
        try:
            decoded = text.decode(name)
        except UnicodeDecodeError:
            return None  # the server says 22021
        if self._settings[b"standard_conforming_strings"] == "off" and "\\" in decoded:
            if statements.begins_ours(decoded):
                raise FeatureNotSupported(
                    "backslashes cannot be read while standard_conforming_strings is off",
                    hint="SET standard_conforming_strings = on.",
                )
            return None
        return decoded

    def _forget(self, text: bytes) -> None:
        if len(self._foreign) >= _VERDICTS:
            self._foreign.clear()
        self._foreign[text] = None
