"""The page: / is the document, /live.js its only script, /sections gives the sections that changed, /report the last report."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from learner.page.guide import NOTHING, Guide
from learner.page.live import Live
from learner.page.sections import SectionCache, sections_of
from learner.page.style import PAGE_STYLE
from learner.page.words import QUESTIONS, question
from learner.report.html import escape, missing
from learner.report.style import STYLE

SCRIPT = files("learner.page").joinpath("live.js").read_text("utf-8")
DOCS = Path(__file__).parents[2] / "docs"
"""The documents of a checkout; an installed package has none."""
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'%3E"
    "%3Ccircle cx='4.5' cy='4.5' r='4' fill='%23c2570c'/%3E%3C/svg%3E"
)
HEAD = ("title", "verdict", "newest", "proof")
"""The sections above the questions."""


def routes(live: Live, run: Path, guide: Guide = NOTHING) -> list[Route]:
    """Return the routes of the page. run: the run directory; guide: what a rig needs to know of this learner."""
    cache = SectionCache(sections_of(live, run, guide))
    is_checkout = DOCS.with_name("ARCHITECTURE.md").is_file()
    documents = {path.name: path for path in sorted(DOCS.glob("*.md"))} if is_checkout else {}
    document = _document(run.resolve().name, has_docs=bool(documents))

    def page(_: Request) -> Response:
        return HTMLResponse(document)

    def script(_: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript")

    def sections(request: Request) -> Response:
        live.watch()
        return JSONResponse(cache.newer(request.query_params))

    def report(_: Request) -> Response:
        path = run / "report.html"
        if not path.is_file():
            text = f"the report is written when the learner stops; `python -m learner report {run}` writes one now\n"
            return PlainTextResponse(text, 404)
        return FileResponse(path, media_type="text/html")

    def text(request: Request) -> Response:
        found = documents.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("no such document\n", 404)
        return PlainTextResponse(found.read_text("utf-8"))

    def contents(_: Request) -> Response:
        return HTMLResponse(_contents(list(documents)))

    return [
        *(Route("/", page), Route("/live.js", script), Route("/sections", sections), Route("/report", report)),
        *(Route("/docs/", contents), Route("/docs/{name}", text)),
    ]


def _document(run: str, *, has_docs: bool) -> str:
    """Return the document with empty sections, which the script fills."""
    title, verdict, newest, proof = (f'<div id="{name}"></div>' for name in HEAD)
    links = {
        "report": "Report, as last written",
        "weights/": "Weights",
        "metrics": "Metrics",
        "healthz": "Health",
    } | ({"docs/": "Documents"} if has_docs else {})
    footer = "".join(f'<li><a href="{link}">{text}</a></li>' for link, text in links.items())
    return _frame(
        f"{run} - babyagent",
        f'<script src="live.js" defer></script></head><body><header><p>babyagent · run {escape(run)}</p>{title}'
        f'<div id="silence" role="alert" hidden></div>{verdict.replace("<div", "<div role=status", 1)}</header>'
        f'<main><div class="glance">{newest}{proof}</div>{"".join(map(question, QUESTIONS))}</main>'
        f'<footer><nav aria-label="More of this run"><ul>{footer}</ul></nav></footer>'
        f"<noscript>{missing('This page needs its script.')}</noscript>",
    )


def _contents(names: Sequence[str]) -> str:
    rows = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in names)
    return _frame("Documents - babyagent", f"</head><body><main><h1>Documents</h1><ul>{rows}</ul></main>")


def _frame(title: str, rest: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="{ICON}"><style>{STYLE}{PAGE_STYLE}</style>{rest}</body></html>\n'
    )
