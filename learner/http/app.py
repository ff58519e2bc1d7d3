"""The one ASGI app of the learner's port: routes of several parts, behind one check of every request."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learner.http.access import Access
from learner.http.connections import LET_IN

COOKIE = "babyagent_token"
COOKIE_S = 30 * 24 * 3600
OPEN_TO_ALL = ("/healthz", "/readyz")
"""Paths that need no token: they tell a service manager yes or no, and nothing else."""
OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Headers of every response that does not set them itself."""
FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>babyagent</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh }</style></head>
<body><form action="/"><label>Token of this learner<br><input name="token" type="password" required autofocus></label>
<button>Enter</button></form></body></html>
"""

log = logging.getLogger(__name__)


def app_for(access: Access, routes: Sequence[BaseRoute]) -> ASGIApp:
    """Return the app with these routes. Handlers that are plain functions run in threads beside the server's."""
    return AccessCheck(Router(routes), access)


class AccessCheck:
    """Refuses requests that are not allowed, and answers with an error where a handler raises.

    A request carries the token as `Authorization: Bearer`, in the cookie, or once as ?token=, which becomes the cookie. Where
    no token is set, only requests to a name of the loopback are answered: otherwise a foreign site could read the page through
    its visitor's browser, by pointing its own name to this address (DNS rebinding). Who shows no right to the page gets one
    response a connection.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it."""
        if scope["type"] != "http":
            return
        has_begun = False
        request = Request(scope)
        refusal = self._refusal(request)
        is_known = refusal is None and request.url.path not in OPEN_TO_ALL
        if is_known:
            scope.get("state", {}).get(LET_IN, lambda: None)()

        async def send_safely(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not is_known:
                    headers["connection"] = "close"
            await send(message)

        handler = refusal or self._app
        try:
            await handler(scope, receive, send_safely)
        except Exception as error:  # of any kind: a defect of the page must not reach training
            log.warning("%s failed: %s", scope["path"], repr(error).partition("\n")[0])
            if not has_begun:
                await PlainTextResponse("the request failed; the learner's log has the reason\n", 500)(
                    scope, receive, send_safely
                )

    def _refusal(self, request: Request) -> Response | None:
        """Return the response in place of the app's; None: the request is allowed."""
        if self._access.token is None:
            if request.url.hostname in OWN_HOSTS:
                return None
            return PlainTextResponse("use the name 127.0.0.1 or localhost for this address\n", 400)
        if request.url.path in OPEN_TO_ALL:
            return None
        given = request.query_params.get("token")
        if self._access.admits(given):
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, self._access.token, max_age=COOKIE_S, httponly=True, samesite="lax")
            return response
        if given is None and any(map(self._access.admits, _tokens(request))):
            return None
        if request.url.path == "/":
            return HTMLResponse(FORM, 401)
        return PlainTextResponse(
            "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN\n", 401, {"www-authenticate": "Bearer"}
        )


def _tokens(request: Request) -> tuple[str | None, str | None]:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return request.cookies.get(COOKIE), token.strip() if kind.lower() == "bearer" else None
