"""The one ASGI app of the learner's port: routes of several parts, behind one check of every request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
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
MAX_FORM = 1024
"""Bytes of a form with a token; a longer one is no such form."""
FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Token of this learner - babyagent</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh }}
main {{ max-width: 34ch; padding: 16px }} h1 {{ line-height: 1.2 }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: 8px; margin-top: 8px }}
</style></head><body><main><h1>This learner asks for its token</h1><p>It is the line in the file that the learner was given with
<code>--http-token</code>.</p><p role="alert"><b>{said}</b></p><form action="/" method="post">
<label for="token">Token</label><input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Enter</button></form></main></body></html>
"""
"""Its one field, `said`, is markup."""
IN_ADDRESS = "A token in the address is not taken, because addresses are kept in histories and logs. Type it here."
WRONG = "That is not the token of this learner."

log = logging.getLogger(__name__)


def app_for(access: Access, routes: Sequence[BaseRoute]) -> ASGIApp:
    """Return the app with these routes. Handlers that are plain functions run in threads beside the server's."""
    return AccessCheck(Router(routes), access)


class AccessCheck:
    """Refuses requests that are not allowed, and answers with an error where a handler raises.

    A request carries the token as `Authorization: Bearer` or in the cookie, which a browser gets by posting the form. A token in
    an address is refused with the remedy, since addresses are kept in histories and in the logs of proxies. Where no token is
    set, only requests to a name of the loopback are answered: otherwise a foreign site could read the page through its visitor's
    browser, by pointing its own name to this address (DNS rebinding). Who shows no right to the page gets one response a
    connection.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it."""
        if scope["type"] != "http":
            return
        has_begun = False
        request = Request(scope, receive)
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

        try:
            if refusal is not None and request.method == "POST" and request.url.path == "/":
                refusal = self._answer_to_form(await _token_of_form(request)) or refusal
            await (refusal or self._app)(scope, receive, send_safely)
        except ClientDisconnect:
            return
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
        if any(map(self._access.admits, _tokens(request))):
            return None
        said = IN_ADDRESS if "token" in request.query_params else ""
        if request.url.path == "/":
            return HTMLResponse(FORM.format(said=said), 401)
        return PlainTextResponse(
            f"a token is needed: Authorization: Bearer TOKEN, or open / in a browser. {said}".strip() + "\n",
            401,
            {"www-authenticate": "Bearer"},
        )

    def _answer_to_form(self, token: str | None) -> Response | None:
        """Return the cookie for the right token, and the form again for a wrong one; None without a token here."""
        if self._access.token is None:
            return None
        if token is None or not self._access.admits(token):
            return HTMLResponse(FORM.format(said=WRONG), 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, self._access.token, max_age=COOKIE_S, httponly=True, samesite="lax")
        return response


async def _token_of_form(request: Request) -> str | None:
    """Return the field `token` of a posted form; None if there is none, or if the form is too long or damaged."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            return None
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=4).get("token", [None])[0]
    except ValueError:
        return None


def _tokens(request: Request) -> tuple[str | None, str | None]:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return request.cookies.get(COOKIE), token.strip() if kind.lower() == "bearer" else None
