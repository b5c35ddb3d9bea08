"""What a browser sees of the gateway: sign in, and let a ``flwr login`` in. No script at all."""

import html
import secrets
import urllib.parse

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from flower_agent.gateway import limits, oidc_policy
from flower_agent.gateway.control_methods import Caller
from flower_agent.gateway.database import digest
from flower_agent.gateway.gate import Gate, Refused
from flower_agent.gateway.oidc import STATE_S, OidcProvider
from flower_agent.gateway.sessions import BROWSER_S
from flower_agent.model import foreign_text
from flower_agent.model.errors import AgentError

COOKIE = "__Host-flower-agent"
WAY_COOKIE = "__Host-flower-agent-way"
"""Of a browser on its way through the provider."""

FORM_MAX_BYTES = 16 << 10
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
STYLE = """\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 12vh auto; padding: 0 1rem; }
label, input, button, .button { display: block; width: 100%; font: inherit; }
* { box-sizing: border-box; }
input, button { padding: .6rem; margin: .2rem 0 1rem; border-radius: .4rem; border: 1px solid; }
.button { padding: .6rem; border-radius: .4rem; text-align: center; text-decoration: none; }
button, .button { background: #1f5fbf; color: #fff; border: 0; cursor: pointer; }
code { font-size: 1.6rem; letter-spacing: .1em; }
.wrong { border-left: .3rem solid #c22; padding-left: .8rem; }
.who { color: GrayText; }
"""


class BrowserPages:
    """The pages of one gateway."""

    def __init__(self, gate: Gate, provider: OidcProvider | None = None) -> None:
        self._gate = gate
        self._provider = provider
        address = urllib.parse.urlsplit(gate.url)
        self._origin = f"{address.scheme}://{address.netloc}"

    def routes(self) -> list[Route]:
        """Return where they are."""
        return [
            Route("/", self._start, methods=["GET"]),
            Route("/login", self._login, methods=["GET"]),
            Route("/sign-in", self._sign_in, methods=["POST"]),
            Route("/approve", self._approve, methods=["POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/oidc/begin", self._begin, methods=["GET"]),
            Route("/oidc/callback", self._callback, methods=["GET"]),
            Route("/style.css", _style, methods=["GET"]),
        ]

    async def _start(self, request: Request) -> Response:
        caller = self._caller(request)
        if caller is None:
            return self._ask_who("")
        return _page("Signed in", _signed_in(caller, self._token(request)))

    async def _login(self, request: Request) -> Response:
        """Show a waiting log-in to somebody who is signed in; ask others to sign in first."""
        code = request.query_params.get("code", "")[:16].upper()
        caller = self._caller(request)
        if caller is None:
            return self._ask_who(code)
        return self._confirm(request, caller, code)

    def _confirm(self, request: Request, caller: Caller, code: str) -> Response:
        waits = self._gate.sessions.waiting(code)
        if waits is None:
            try:
                self._gate.code_tried(limits.origin(request.headers))
            except Refused as refused:
                return _page("Wait", _wrong(refused.words), 503)
            words = "No log-in waits under this code. Run <code>flwr login</code> again."
            return _page("Nothing waits", f"<p>{words}</p>", 404)
        return _page("Allow this log-in?", _confirm_form(caller, code, waits, self._token(request)))

    async def _sign_in(self, request: Request) -> Response:
        form = await self._form(request)
        if form is None:
            return _page("Refused", _wrong("This form was not sent from this page."), 403)
        name, code = form.get("name", "").strip().lower(), form.get("code", "")[:16]
        try:
            cookie = await self._gate.sign_in(
                name, form.get("password", ""), limits.origin(request.headers)
            )
        except Refused as refused:
            return _page("Wait", _wrong(refused.words) + _sign_in_form(code), 503)
        if cookie is None:
            words = "The name or the password is wrong."
            return _page("Sign in", _wrong(words) + _sign_in_form(code), 401)
        response = RedirectResponse(_after(code), 303, SECURITY)
        _keep(response, COOKIE, cookie, BROWSER_S)
        return response

    def _ask_who(self, code: str) -> Response:
        provider = _provider_link(code) if self._provider else ""
        return _page("Sign in", provider + _sign_in_form(code))

    async def _begin(self, request: Request) -> Response:
        """Send a browser to the provider; its cookie ties the way back to it."""
        if self._provider is None:
            return _page("Not found", "<p>This federation has local accounts alone.</p>", 404)
        cookie = secrets.token_urlsafe(32)
        try:
            self._gate.code_tried(limits.origin(request.headers))
            code = request.query_params.get("code", "")[:16]
            there = await self._provider.begin(code, digest(cookie))
        except Refused as refused:
            return _page("Wait", _wrong(refused.words), 503)
        except AgentError as error:
            return _page("The provider does not answer", _wrong(error.finding.message), 503)
        response = RedirectResponse(there, 303, SECURITY)
        _keep(response, WAY_COOKIE, cookie, STATE_S)
        return response

    async def _callback(self, request: Request) -> Response:
        """Let somebody in whom the provider sent back, if a rule gives them a role."""
        cookie = request.cookies.get(WAY_COOKIE, "")
        if self._provider is None or not cookie:
            return _page("Refused", _wrong("This sign-in was not begun in this browser."), 403)
        try:
            who, code = await self._provider.finish(dict(request.query_params), digest(cookie))
        except AgentError as error:
            self._gate.note("gateway.login", "unknown", limits.origin(request.headers), "refused",
                            message=error.finding.message)  # fmt: skip
            return _page("Not signed in", _wrong(error.finding.message), 403)
        role = oidc_policy.role(who, self._provider.config.allow)
        name = foreign_text.message(who.account)
        result = "refused" if role is None else "ok"
        self._gate.note("gateway.login", f"account:{name}", limits.origin(request.headers), result)
        if role is None:
            words = f"{name} may not use this federation. Ask its operator for a role."
            return _page("Not allowed", _wrong(words), 403)
        value = self._gate.sessions.open_browser(name, role, limits.origin(request.headers))
        response = RedirectResponse(_after(code), 303, SECURITY)
        _keep(response, COOKIE, value, BROWSER_S)
        _drop(response, WAY_COOKIE)
        return response

    async def _approve(self, request: Request) -> Response:
        form, caller = await self._form(request), self._caller(request)
        if form is None or caller is None or form.get("token") != self._token(request):
            return _page("Refused", _wrong("Sign in and open the address again."), 403)
        if form.get("answer") != "allow":
            return _page("Not allowed", "<p>Nothing was allowed. You can close this page.</p>")
        if self._gate.approve(form.get("code", ""), caller, limits.origin(request.headers)):
            return _page("Done", "<p>The log-in is complete. You can close this page.</p>")
        return _page("Too late", _wrong("This log-in waits no more. Start it again."), 410)

    async def _sign_out(self, request: Request) -> Response:
        form, caller = await self._form(request), self._caller(request)
        if form is None or caller is None or form.get("token") != self._token(request):
            return _page("Refused", _wrong("You are not signed in here."), 403)
        self._gate.sessions.end(caller.session)
        response = RedirectResponse("/", 303, SECURITY)
        _drop(response, COOKIE)
        return response

    def _caller(self, request: Request) -> Caller | None:
        cookie = request.cookies.get(COOKIE)
        return self._gate.sessions.browser(cookie) if cookie else None

    def _token(self, request: Request) -> str:
        """Return what a form of this browser's session carries; no other site can know it."""
        return digest("form " + request.cookies.get(COOKIE, ""))

    async def _form(self, request: Request) -> dict[str, str] | None:
        """Return the fields of a form that came from our own page; None for any other."""
        if request.headers.get("origin") != self._origin:
            return None
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > FORM_MAX_BYTES:
                return None
        try:
            return dict(urllib.parse.parse_qsl(body.decode(), max_num_fields=10))
        except ValueError:
            return None


def _after(code: str) -> str:
    """Return where a browser goes once it is signed in; never to another site."""
    return f"/login?{urllib.parse.urlencode({'code': code})}" if code else "/"


def _keep(response: Response, name: str, value: str, lives_s: float) -> None:
    response.set_cookie(
        name, value, int(lives_s), path="/", secure=True, httponly=True, samesite="lax"
    )


def _drop(response: Response, name: str) -> None:
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")


async def _style(_request: Request) -> Response:
    return Response(STYLE, media_type="text/css", headers={"x-content-type-options": "nosniff"})


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)} - Flower federation</title><link rel="stylesheet" '
        f'href="/style.css"><main><h1>{html.escape(title)}</h1>{body}</main></html>',
        status,
        SECURITY,
    )


def _wrong(words: str) -> str:
    return f'<p class="wrong" role="alert">{html.escape(words)}</p>'


def _sign_in_form(code: str) -> str:
    return (
        '<form method="post" action="/sign-in">'
        f'<input type="hidden" name="code" value="{html.escape(code)}">'
        '<label for="name">Account</label>'
        '<input id="name" name="name" autocomplete="username" required autofocus>'
        '<label for="password">Password</label><input id="password" name="password" '
        'type="password" autocomplete="current-password" required>'
        "<button>Sign in</button></form>"
    )


def _provider_link(code: str) -> str:
    # A link and no form: what a form leads to would have to be named in the security policy.
    there = html.escape(f"/oidc/begin?{urllib.parse.urlencode({'code': code})}")
    return f'<p><a class="button" href="{there}">Sign in with your organization</a></p>'


def _confirm_form(caller: Caller, code: str, origin: str, token: str) -> str:
    return (
        f"<p>A <code>flwr</code> client at <strong>{html.escape(origin)}</strong> asks to act as "
        f"<strong>{html.escape(caller.account)}</strong> ({caller.role}).</p>"
        f"<p><code>{html.escape(code)}</code></p>"
        "<p>Allow it only if you have just run <code>flwr login</code> yourself and the address "
        "that it printed ends with this code.</p>"
        '<form method="post" action="/approve">'
        f'<input type="hidden" name="code" value="{html.escape(code)}">'
        f'<input type="hidden" name="token" value="{token}">'
        '<button name="answer" value="allow">Allow</button>'
        '<button name="answer" value="refuse">Do not allow</button></form>'
    )


def _signed_in(caller: Caller, token: str) -> str:
    return (
        f"<p>You are signed in as <strong>{html.escape(caller.account)}</strong> "
        f"({caller.role}). Run <code>flwr login</code> on your machine to use the federation.</p>"
        '<form method="post" action="/sign-out">'
        f'<input type="hidden" name="token" value="{token}"><button>Sign out</button></form>'
    )
