"""Checks from the outside: the port, the page, and who can reach them."""

import http.client
import socket

from hubbub.doctor.finding import Finding, ok, problem, warning
from hubbub.settings import Settings, is_loopback
from hubbub.up import UpError, programs

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 compared, not bound


def _get(settings: Settings, path: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and the beginning of the body. Raises `OSError`, `http.client.HTTPException`."""
    host = _EVERYWHERE.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read(2000).decode(errors="replace")
    finally:
        connection.close()


def port(settings: Settings) -> Finding:
    """Whether our shards have it, or could."""
    ours = f"{settings.host} port {settings.port}"
    try:
        programs(settings)
    except UpError:
        host = _EVERYWHERE.get(settings.host, settings.host)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.settimeout(2)
            if probe.connect_ex((host, settings.port)) == 0:
                return problem(f"something else listens on {ours}", "end it, or choose another with --port")
        return ok(f"{ours} is free")
    try:
        status, headers, _ = _get(settings, "/healthz")
    except (OSError, http.client.HTTPException) as exc:
        return problem(f"nothing answers on {ours}: {exc}", "hubbub status; is --port the one it was started with?")
    if status != 200 or headers.get("server") != "Hubbub":
        return problem(f"something else answers on {ours}", "end it, or choose another with --port")
    return ok(f"our shards listen on {ours}")


def ready(settings: Settings) -> Finding:
    """What /readyz says."""
    try:
        status, _, body = _get(settings, "/readyz")
    except (OSError, http.client.HTTPException):
        return warning("no shard answers", "see the checks 'programs' and 'port'")
    if status != 200:
        return problem(f"the server is not ready: {body}", "hubbub status, and the log of the program it names")
    return ok("clients can connect")


def page(settings: Settings) -> Finding:
    """Whether the page is served, under its policy."""
    try:
        status, headers, body = _get(settings, "/")
    except (OSError, http.client.HTTPException):
        return warning("no shard answers", "see the checks 'programs' and 'port'")
    if status != 200 or "<title>Hubbub</title>" not in body:
        return problem(
            f"/ answers {status} and is not our page", "reinstall Hubbub: its webclient directory is missing"
        )
    if "require-trusted-types-for" not in headers.get("content-security-policy", ""):
        return problem("the page comes without its content security policy", "a proxy takes it away: let it pass")
    return ok("served under its policy")


def exposure(settings: Settings) -> Finding:
    """Settings that open more than one may have meant."""
    outside = not is_loopback(settings.host)
    if outside and settings.guests == "always":
        text = "anybody who reaches this machine signs in under any name that is no account"
        return warning(text, "HUBBUB_GUESTS=never, unless that is meant")
    if "*" in settings.allowed_origins:
        return warning("pages of every origin may connect", "list those that shall in allowed_origins")
    if settings.token_in_query:
        return warning("tokens in addresses end up in logs", "token_in_query = false, and use the header")
    if outside and not settings.trusted_proxies:
        text = f"{settings.host} is reachable without TLS, and no proxy is named"
        return warning(text, "listen on 127.0.0.1 behind a TLS proxy, or name it in trusted_proxies")
    return ok("this machine only" if not outside else f"{settings.host}, behind {', '.join(settings.trusted_proxies)}")
