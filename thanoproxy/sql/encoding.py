"""PostgreSQL's client encodings as Python codecs.

Statements are recognised in decoded text, so that a trailing byte of SJIS or GBK that looks like a quote or a backslash is none
(https://www.postgresql.org/docs/18/multibyte.html#MULTIBYTE-CHARSET-SUPPORTED).  What is sent upstream is encoded back with the
same codec.  An encoding without a codec is never intercepted.
"""

from __future__ import annotations

__all__ = ["codec"]

_CODECS = {
    "UTF8": "utf-8",
    "UNICODE": "utf-8",
    # No encoding at all: one character a byte goes out exactly as it came in.
    "SQL_ASCII": "latin-1",
    "LATIN1": "latin-1",
    "LATIN2": "iso8859-2",
    "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4",
    "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "ISO_8859_5": "iso8859-5",
    "ISO_8859_6": "iso8859-6",
    "ISO_8859_7": "iso8859-7",
    "ISO_8859_8": "iso8859-8",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "WIN866": "cp866",
    "WIN874": "cp874",
    "EUC_JP": "euc-jp",
    "EUC_KR": "euc-kr",
    "EUC_CN": "gb2312",
    "SJIS": "cp932",
    "BIG5": "cp950",
    "GBK": "cp936",
    "GB18030": "gb18030",
    "UHC": "cp949",
    "JOHAB": "johab",
    **{f"WIN{page}": f"cp{page}" for page in (1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258)},
}


def codec(client_encoding: str) -> str | None:
    """The Python codec of a client_encoding as ParameterStatus reports it; None if there is none."""
    return _CODECS.get(client_encoding.upper())
