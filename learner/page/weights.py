"""/weights/NAME: the files of a run's export folder. A robot asks often, by its ETag, and takes only what is new."""

from __future__ import annotations

import hashlib
import os
import re
from io import BufferedReader
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

TYPES = {
    "safetensors": "application/octet-stream",
    "onnx": "application/octet-stream",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
}
"""What is served, by the end of its name, and as what."""
CHUNK_BYTES = 1 << 18
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}\.({'|'.join(TYPES)})")
_TAG = re.compile(r'(?:W/)?("[^"]*")')

_Version = tuple[int, int, int]


def routes(folder: Path) -> list[Route]:
    """One for the files of `folder`, each of which is only ever replaced as a whole."""
    tags: dict[str, tuple[_Version, str]] = {}

    def weights(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            file = _opened(folder, name)
        except OSError:
            there = ", ".join(sorted(path.name for path in folder.glob("*") if _NAME.fullmatch(path.name)))
            return PlainTextResponse(f"no such weights; there are: {there or 'none yet'}\n", 404)
        tag = _tag(file, name, tags)
        headers = {"etag": tag, "cache-control": "no-cache", "content-type": TYPES[name.rpartition(".")[2]]}
        if _knows(request.headers.get("if-none-match", ""), tag):
            file.close()
            return Response(status_code=304, headers=headers)
        return _Sent(file, headers)

    return [Route("/weights/{name}", weights)]


def _opened(folder: Path, name: str) -> BufferedReader:
    """The file as it is now: what replaces it under its name does not change what was opened. Raises OSError."""
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(name)
    return (folder / name).open("rb")


def _tag(file: BufferedReader, name: str, tags: dict[str, tuple[_Version, str]]) -> str:
    """The strong ETag of an open file, the hash of its bytes: it is the sha256 in the card, and survives a restart."""
    status = os.fstat(file.fileno())
    version = status.st_ino, status.st_mtime_ns, status.st_size
    known = tags.get(name)
    if known is not None and known[0] == version:
        return known[1]
    tag = f'"{hashlib.file_digest(file, "sha256").hexdigest()}"'
    file.seek(0)
    tags[name] = version, tag
    return tag


def _knows(if_none_match: str, tag: str) -> bool:
    """Whether a client has this already (RFC 9110, section 13.1.2)."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


class _Sent(Response):
    """An open file; starlette's own would open it by its name once more, after it may have been replaced."""

    def __init__(self, file: BufferedReader, headers: dict[str, str]) -> None:
        super().__init__(headers=headers | {"content-length": str(os.fstat(file.fileno()).st_size)})
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while scope["method"] != "HEAD" and (chunk := await run_in_threadpool(self._file.read, CHUNK_BYTES)):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
