"""The HTML elements of reports and of the page. Pure; the functions that take text escape it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite

from learner.report.style import STYLE


def escape(text: str) -> str:
    """Return text as markup. Bytes of a name that is not UTF-8 are shown escaped, because no document can hold them."""
    return html.escape(text.encode(errors="backslashreplace").decode())


def page(name: str, sections: Iterable[str]) -> str:
    """Return a whole document of some sections, without script and outside resources."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)} - babyagent</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header><p>babyagent</p><h1>{escape(name)}</h1></header>"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """Return a section; title, note and body are markup, and an empty title or note is left out."""
    head = f"<h2>{title}</h2>" if title else ""
    return f"<section>{head}{f'<p class=note>{note}</p>' if note else ''}{body}</section>"


def missing(text: str) -> str:
    """Return a note in the place of something that cannot be shown."""
    return f'<p class="missing">{escape(text)}</p>'


def grid(figures: Iterable[str], classes: str = "curves") -> str:
    """Return figures (markup) beside each other, as many as the width allows."""
    return f'<div class="{classes}">{"".join(f"<figure>{figure}</figure>" for figure in figures)}</div>'


def axis_choice(name: str, figures: Mapping[str, str]) -> str:
    """Return figures (markup) of which one set is shown at a time, chosen by a radio button; without a script.

    name: of these buttons, unlike those of others on the page. figures: by the words beside their button; at most three.
    """
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}{i}" class="axis{i}"{" checked" if i == 0 else ""}>'
        f'<label for="{name}{i}">{escape(words)}</label>'
        for i, words in enumerate(figures)
    )
    sets = "".join(f'<div class="over{i}">{figure}</div>' for i, figure in enumerate(figures.values()))
    return f'<div class="axes"><span>over</span> {buttons}{sets}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """Return a table of text with the names of the rows in the first column; it scrolls where it is wider than the page."""
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{above}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number_tiles(numbers: Mapping[str, object]) -> str:
    """Return large tiles, one a number. numbers: by their meaning, which is markup."""
    boxes = (f"<div><b>{number(value)}</b><span>{words}</span></div>" for words, value in numbers.items())
    return f'<div class="tiles">{"".join(boxes)}</div>'


def legend(text: str, role: str) -> str:
    """Return a short line in the colour of a role (`learner.report.figures.ROLES`) and its meaning."""
    return f'<span class="legend" style="color:var(--{role})">{escape(text)}</span>'


ENCODERS = ("student", "teacher")
"""The probed encoders that have a colour."""


def encoder_legend(found: Iterable[str]) -> str:
    """Return the colours of those encoders that were found; objectives without a momentum copy have no teacher."""
    names = set(found)
    return "".join(legend(name, name) for name in ENCODERS if name in names)


def number(value: object) -> str:
    """Return a number for a reader: thousands separated, three digits of a fraction, a dash if there is no number."""
    if not isinstance(value, int | float) or not isfinite(value):
        return "\N{EN DASH}"
    if isinstance(value, int) or value.is_integer() or abs(value) >= 1000:
        return f"{round(value):,}".replace(",", "\u202f")
    return f"{value:.3g}"


def format_time(time_ns: int) -> str:
    """Return a time in nanoseconds since 1970 to the second, in UTC."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def percent(share: object) -> str:
    """Return an accuracy, 0 to 1, in percent; a dash if there is none."""
    return f"{100 * share:.1f}" if isinstance(share, int | float) and isfinite(share) else "\N{EN DASH}"
