"""The page: / is the document, /live.js its only script, and /sections gives the sections that changed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from learner.page.live import Live
from learner.page.sections import Section, SectionCache, sections_of
from learner.page.style import PAGE_STYLE
from learner.report.html import escape, missing, section
from learner.report.style import STYLE

SCRIPT = files("learner.page").joinpath("live.js").read_text("utf-8")
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'%3E"
    "%3Ccircle cx='4.5' cy='4.5' r='4' fill='%23c2570c'/%3E%3C/svg%3E"
)


def routes(live: Live, run: Path) -> list[Route]:
    """Return the routes of the page. run: the run directory."""
    cache = SectionCache(sections_of(live, run))
    document = _document(run.resolve().name, cache.sections.values())

    def page(_: Request) -> Response:
        return HTMLResponse(document)

    def script(_: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript")

    def sections(request: Request) -> Response:
        live.watch()
        return JSONResponse(cache.newer(request.query_params))

    return [Route("/", page), Route("/live.js", script), Route("/sections", sections)]


def _document(run: str, sections: Iterable[Section]) -> str:
    """Return the document with empty sections, which the script fills."""
    empty = "".join(section(each.title, each.note, f'<div id="{each.name}"></div>') for each in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(run)} - babyagent</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="{ICON}"><style>{STYLE}{PAGE_STYLE}</style>'
        f'<script src="live.js" defer></script></head><body><header><p>babyagent</p><h1>{escape(run)}</h1>'
        '<div id="silence" role="status" hidden></div></header>'
        f"<main>{empty}</main><noscript>{missing('This page needs its script.')}</noscript></body></html>\n"
    )
