"""Text on its way to a terminal or a log: what names, paths and peers bring along is shown there, and never obeyed."""

from __future__ import annotations

import logging
from typing import Any


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with all characters escaped that a terminal could obey: "\x1b" becomes four visible characters.

    These are control characters, among them line ends, those that change the direction of writing, and the surrogates by which
    Python stands for the bytes of a name that is not UTF-8. keep: characters that stay. The narrow space that separates thousands
    in reports becomes a plain one.
    """
    text = text.replace("\u202f", " ")
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


class LineFormatter(logging.Formatter):
    """Formats a record with its message in one line of printable text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a name of logging
        """Return the line of a record."""
        record.message = printable(record.message)
        record.level = record.levelname.lower()
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - a name of logging
        """Return the traceback of a defect, whose lines stay apart."""
        return printable(super().formatException(ei), keep="\n")


def log_with(handler: logging.Handler) -> None:
    """Send warnings to a handler, each in one line that looks like the other lines: `warning: TEXT`."""
    handler.setFormatter(LineFormatter("%(level)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def is_utf8(name: str) -> bool:
    """Return whether a name is UTF-8. Python reads other bytes as lone surrogates, which many libraries cannot write."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
