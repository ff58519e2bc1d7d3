"""The one app of the learner's port: its parts each bring their routes, and in front of all stands the guard."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learner.page.access import Door

COOKIE = "babyagent_token"
COOKIE_S = 30 * 24 * 3600
OPEN_TO_ALL = ("/healthz", "/readyz")
"""Paths that need no token: they say yes or no, to whoever starts and restarts the learner."""
OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""
FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>babyagent</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh }</style></head>
<body><form action="/"><label>Token of this learner<br><input name="token" type="password" required autofocus></label>
<button>Enter</button></form></body></html>
"""

log = logging.getLogger(__name__)


def app_for(door: Door, routes: Sequence[BaseRoute]) -> ASGIApp:
    """The app behind this door. Handlers that are plain functions run in threads beside the server's."""
    return Guard(Router(routes), door)


class Guard:
    """Lets in who may, and turns what fails into an answer: neither a stranger nor a defect reaches the training thread.

    The token comes as `Authorization: Bearer`, in the cookie, or once as ?token=, which becomes the cookie. Where there is
    none, only names of the loopback are answered to: else a foreign site could read the page through its visitor's browser
    by letting its own name point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        begun = False

        async def send_safely(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._instead(Request(scope)) or self._app
        try:
            await answer(scope, receive, send_safely)
        except Exception as error:  # whatever it is: the page's defects are the page's
            log.warning("%s failed: %s", scope["path"], repr(error).partition("\n")[0])
            if not begun:
                await PlainTextResponse("it failed; the learner's log says why\n", 500)(scope, receive, send_safely)

    def _instead(self, request: Request) -> Response | None:
        """What is answered in place of the app."""
        if self._door.token is None:
            if request.url.hostname in OWN_HOSTS:
                return None
            return PlainTextResponse("ask for this by 127.0.0.1 or localhost\n", 400)
        if request.url.path in OPEN_TO_ALL:
            return None
        given = request.query_params.get("token")
        if self._door.admits(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, self._door.token, max_age=COOKIE_S, httponly=True, samesite="lax")
            return answer
        if given is None and any(map(self._door.admits, _tokens(request))):
            return None
        if request.url.path == "/":
            return HTMLResponse(FORM, 401)
        return PlainTextResponse(
            "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN\n", 401, {"www-authenticate": "Bearer"}
        )


def _tokens(request: Request) -> tuple[str | None, str | None]:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return request.cookies.get(COOKIE), token.strip() if kind.lower() == "bearer" else None
