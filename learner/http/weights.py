"""/weights/ lists the export folder of a run, and /weights/NAME serves a file of it.

A robot asks often, with its ETag, and downloads only new files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

TYPES = {
    "safetensors": "application/octet-stream",
    "onnx": "application/octet-stream",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
}
"""The content type of the files that are served, by the suffix of their names."""
CHUNK_BYTES = 1 << 18
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}\.({'|'.join(TYPES)})")
_TAG = re.compile(r'(?:W/)?("[^"]*")')

_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Weights - babyagent</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 60ch; margin: auto; padding: 16px }}
h1 {{ line-height: 1.2 }}</style></head>
<body><main><h1>Weights of this learner</h1><p>The newest good weights. A model card, .md to read and .json for programs, tells
what each file saw and how to load it. Ask again with the ETag of your last answer: an unchanged file is answered with 304.</p>
<ul>{rows}</ul><p><a href="/">The page of this learner</a></p></main></body></html>
"""

_Version = tuple[int, int, int]


def routes(folder: Path) -> list[Route]:
    """Return the routes for the list of the files in `folder`, and for the files, each of which is replaced as a whole only."""
    tags: dict[str, tuple[_Version, str]] = {}

    def weights(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            file = _open(folder, name)
        except (OSError, RuntimeError):  # RuntimeError: links that lead to each other
            there = ", ".join(status[0] for status in _files(folder))
            return PlainTextResponse(f"no such weights; there are: {there or 'none yet'}\n", 404)
        tag = _tag(file, name, tags)
        headers = {"etag": tag, "cache-control": "no-cache", "content-type": TYPES[name.rpartition(".")[2]]}
        if _client_has(request.headers.get("if-none-match", ""), tag):
            file.close()
            return Response(status_code=304, headers=headers)
        return _OpenFileResponse(file, headers)

    def index(request: Request) -> Response:
        files = _files(folder)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse([{"name": name, "bytes": size, "modified": modified} for name, size, modified in files])
        rows = "".join(
            f'<li><a href="{name}">{name}</a>, {size / 1e3:.1f} kB, written {modified[:19].replace("T", " ")} UTC</li>'
            for name, size, modified in files
        )
        return HTMLResponse(_INDEX.format(rows=rows or "<li>none yet: they are written with the first commit</li>"))

    return [Route("/weights/", index), Route("/weights/{name}", weights)]


def _files(folder: Path) -> list[tuple[str, int, str]]:
    """Return name, bytes and time (UTC) of each file that is served, by name."""
    found = []
    for path in sorted(folder.glob("*")):
        if _NAME.fullmatch(path.name) and path.is_file():
            with suppress(OSError):
                status = path.stat()
                modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
                found.append((path.name, status.st_size, modified))
    return found


def _open(folder: Path, name: str) -> BufferedReader:
    """Open the present file; a new file of the same name does not change the open one.

    Raises OSError for what is no regular file of this folder, for example a link that leads out of it.
    """
    path = (folder / name).resolve()
    if not _NAME.fullmatch(name) or path.parent != folder.resolve():
        raise FileNotFoundError(name)
    # Non-blocking: opening a pipe would otherwise wait for its other end.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(name)
    return file


def _tag(file: BufferedReader, name: str, tags: dict[str, tuple[_Version, str]]) -> str:
    """Return the strong ETag of an open file, its sha256 as in the model card: a restart does not change it."""
    status = os.fstat(file.fileno())
    version = status.st_ino, status.st_mtime_ns, status.st_size
    known = tags.get(name)
    if known is not None and known[0] == version:
        return known[1]
    tag = f'"{hashlib.file_digest(file, "sha256").hexdigest()}"'
    file.seek(0)
    tags[name] = version, tag
    return tag


def _client_has(if_none_match: str, tag: str) -> bool:
    """Return whether a client already has this file (RFC 9110, section 13.1.2)."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


class _OpenFileResponse(Response):
    """Sends an open file. Starlette's FileResponse opens a file by its name, which may belong to a newer file by then."""

    def __init__(self, file: BufferedReader, headers: dict[str, str]) -> None:
        super().__init__(headers=headers | {"content-length": str(os.fstat(file.fileno()).st_size)})
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while scope["method"] != "HEAD" and (chunk := await run_in_threadpool(self._file.read, CHUNK_BYTES)):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
