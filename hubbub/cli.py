"""The `hubbub` command."""

import os
import re
import shlex
import time
import uuid
from collections.abc import Callable
from typing import Any

import click
import jwt

import hubbub
from hubbub import settings as hubbub_settings
from hubbub.protocol.conversation import InvalidName, check_username
from hubbub.runtime.files import FileError, private_dir, read_secret, write_whole
from hubbub.settings import Settings, SettingsError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command ``--config`` and the options of the settings *names* (none: all of them), and `Settings`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        rows = [row for row in hubbub_settings.table() if not names or row.name in names]

        def call(config: str | None, **given: Any) -> Any:
            overrides = {row.name: given.pop(row.name) for row in rows}
            path = config or os.environ.get("HUBBUB_CONFIG") or None
            try:
                settings = hubbub_settings.load(os.environ, path, overrides)
            except SettingsError as exc:
                raise click.ClickException(str(exc)) from exc
            return command(settings, **given)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for row in reversed(rows):
            default = f"  [default: {row.default}]" if row.default else ""
            call = click.option(row.option, row.name, metavar="VALUE", help=f"{row.meaning}.{default}")(call)
        return click.option("--config", metavar="FILE", help="A TOML file with settings.  [env: HUBBUB_CONFIG]")(call)

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(hubbub.__version__, prog_name="hubbub")
def main() -> None:
    """Hubbub, a self-hosted chat server. `hubbub up` starts it."""


@main.command()
@_with_settings()
def up(settings: Settings) -> None:
    """Start the server and stay in the foreground; Ctrl-C stops it.

    Each option is a setting, and has an environment variable (--port is HUBBUB_PORT) and a key in the TOML file
    (port). No setting is needed.
    """
    from hubbub import up as starting

    raise SystemExit(starting.up(settings))


@main.command()
@click.argument("user")
@click.option("--ttl", default="1d", show_default=True, help="How long it is valid: 90s, 15m, 12h, 30d.")
@_with_settings("data_dir", "token_secret_file")
def token(settings: Settings, user: str, ttl: str) -> None:
    """Print a token (a JWT) that signs USER in."""
    match = re.fullmatch(r"([1-9]\d{0,9})([smhd]?)", ttl)
    if not match:
        raise click.BadParameter(f"{ttl!r} is not a time like 90s, 15m, 12h or 30d", param_hint="--ttl")
    try:
        check_username(user)
        _prepare(settings)
        secret = read_secret(settings.token_secret_file)
    except (InvalidName, FileError) as exc:
        raise click.ClickException(str(exc)) from exc
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + int(match[1]) * _UNITS[match[2]], "jti": uuid.uuid4().hex}
    click.echo(jwt.encode(claims, secret, algorithm="HS256"))


@main.command()
@_with_settings("data_dir", "curve_dir")
@click.option("--force", is_flag=True, help="Replace existing keys; every process then needs the new ones.")
def keys(settings: Settings, force: bool) -> None:
    """Make the CURVE keys that a tcp bus needs, one pair for the broker and one for its peers.

    A host that runs the broker needs broker.secret and peer.public; the others need broker.public, peer.public and
    peer.secret.
    """
    import zmq

    directory = settings.curve_dir
    names = [f"{who}.{kind}" for who in ("broker", "peer") for kind in ("public", "secret")]
    if not force and any((directory / name).exists() for name in names):
        raise click.ClickException(f"there are keys in {directory} already; --force replaces them")
    try:
        _prepare(settings)
        private_dir(directory)
        for who in ("broker", "peer"):
            for kind, key in zip(("public", "secret"), zmq.curve_keypair(), strict=True):
                write_whole(directory / f"{who}.{kind}", key + b"\n")
    except (FileError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"{', '.join(names)} are in {directory}")


@main.command("settings")
def show_settings() -> None:
    """Print the table of all settings."""
    click.echo("| setting | environment | default | allowed | meaning |")
    click.echo("| --- | --- | --- | --- | --- |")
    for row in hubbub_settings.table():
        click.echo(f"| {row.name} | {row.env} | {row.default or '(none)'} | {row.allowed} | {row.meaning} |")


@main.command()
@_with_settings("data_dir")
def status(settings: Settings) -> None:
    """Show the state of every program of the server on a data directory."""
    from hubbub.up import programs

    for name, state, description, _ in programs(settings):
        click.echo(f"{name:<12} {state:<10} {description}")


@main.command()
@_with_settings()
def env(settings: Settings) -> None:
    """Prepare the data directory and print what `supervisord -c supervisord.conf` needs, as exports for a shell.

    \b
    eval "$(hubbub env)" && exec supervisord -c supervisord.conf
    """
    from hubbub.up import environment

    _prepare(settings)
    variables = environment(settings, os.environ)
    for name in os.environ.keys() - variables.keys():
        click.echo(f"unset {name}")
    for name, value in variables.items():
        if os.environ.get(name) != value:
            click.echo(f"export {name}={shlex.quote(value)}")


def _prepare(settings: Settings) -> None:
    from hubbub.up import prepare

    prepare(settings)


if __name__ == "__main__":
    main()
