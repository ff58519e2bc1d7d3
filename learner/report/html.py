"""The elements that the pages of runs are made of. Pure; text is escaped here, and nowhere else twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite

from learner.report.style import STYLE


def page(name: str, sections: Iterable[str]) -> str:
    """A whole document that needs nothing else: no script, no outside resource."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)} - babyagent</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header><p>babyagent</p><h1>{escape(name)}</h1></header>"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """A part of the page; all three are markup."""
    return f"<section><h2>{title}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>"


def missing(what: str) -> str:
    """What stands in place of something that cannot be shown; text."""
    return f'<p class="missing">{escape(what)}</p>'


def grid(figures: Iterable[str], classes: str = "curves") -> str:
    """Figures (markup) beside each other as the width allows."""
    return f'<div class="{classes}">{"".join(f"<figure>{figure}</figure>" for figure in figures)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table of text, the first column naming the rows; it scrolls by itself where it is wider than the page."""
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def legend(text: str, role: str) -> str:
    """A line in the colour of a role (`learner.report.figures.ROLES`), and what it stands for."""
    return f'<span class="legend" style="color:var(--{role})">{escape(text)}</span>'


def number(value: object) -> str:
    """A figure as a person reads it: thousands apart, three digits of what is not whole, a dash where there is none."""
    if not isinstance(value, int | float) or not isfinite(value):
        return "\N{EN DASH}"
    if isinstance(value, int) or value.is_integer() or abs(value) >= 1000:
        return f"{round(value):,}".replace(",", "\u202f")
    return f"{value:.3g}"


def percent(share: object) -> str:
    """An accuracy of 0 to 1 in percent, a dash where there is none."""
    return f"{100 * share:.1f}" if isinstance(share, int | float) and isfinite(share) else "\N{EN DASH}"
