"""The `hubbub` command."""

import os
import re
import secrets
import shlex
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

import hubbub
from hubbub import settings as hubbub_settings
from hubbub.protocol.conversation import InvalidName, check_username
from hubbub.runtime.files import FileError, private_dir, read_secret, write_whole
from hubbub.settings import Settings, SettingsError
from hubbub.signing import mint

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
@click.option("--admin", is_flag=True, help="With the administrators' role.")
@_with_settings(
    "data_dir", "token_secret_file", "token_audience", "token_issuer", "token_user_claim", "token_role_claim"
)
def token(settings: Settings, user: str, ttl: str, admin: bool) -> None:
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
    minted, _ = mint(
        secret,
        user,
        int(match[1]) * _UNITS[match[2]],
        user_claim=settings.token_user_claim,
        role_claim=settings.token_role_claim,
        role="admin" if admin else "member",
        audience=settings.token_audience,
        issuer=settings.token_issuer,
    )
    click.echo(minted)


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


@main.command()
@click.option("--once", is_flag=True, help="Print it once; so it does where its output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print it once, as JSON.")
@_with_settings("data_dir", "host", "port")
def top(settings: Settings, once: bool, as_json: bool) -> None:
    """Show live what every process of the server on this machine does."""
    from hubbub import top as showing

    showing.top(settings, once=once, as_json=as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each check.")
@_with_settings()
def doctor(settings: Settings, as_json: bool) -> None:
    """Check this deployment and say what is wrong and how to mend it. Changes nothing.

    Ends with 0 when all is well, 1 with warnings, 2 with problems.
    """
    from hubbub.doctor import examine

    raise SystemExit(examine(settings, as_json=as_json))


@main.group()
def user() -> None:
    """Add, list and change the accounts of this server."""


def _user(name: str, *arguments: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The command *name* of `hubbub user`, with the settings that say where the database is."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = _with_settings("data_dir", "database_url")(command)
        for argument in reversed(arguments):
            wrapped = argument(wrapped)
        return user.command(name)(wrapped)

    return decorate


_name = click.argument("username", metavar="NAME")
_password = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
)
_generate = click.option("--generate", is_flag=True, help="Make a password and print it.")


@_user(
    "add",
    _name,
    _password,
    _generate,
    click.option("--admin", is_flag=True, help="With the administrators' role."),
    click.option("--adopt", is_flag=True, help="Also if somebody has used the name without an account."),
)
def add(settings: Settings, username: str, password_stdin: bool, generate: bool, admin: bool, adopt: bool) -> None:
    """Add an account."""
    from hubbub import users

    password = _read_password(username, password_stdin, generate)
    users.run(settings, users.add(username, password, "admin" if admin else "member", adopt))
    click.echo(f"{username} can sign in")


@_user("list", click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line."))
def list_(settings: Settings, as_json: bool) -> None:
    """List the accounts."""
    from hubbub import users

    for account in users.run(settings, users.listed()):
        if as_json:
            click.echo(msgspec.json.encode(account).decode())
        else:
            state = "disabled" if account.disabled_at else account.role
            click.echo(f"{account.username:<32} {state:<10} since {account.created_at:%Y-%m-%d}")


@_user("disable", _name)
def disable(settings: Settings, username: str) -> None:
    """Disable an account: its sessions end, everywhere, within a second."""
    from hubbub import users

    users.run(settings, users.change(username, disabled=True))
    click.echo(f"{username} is disabled")


@_user("enable", _name)
def enable(settings: Settings, username: str) -> None:
    """Let a disabled account sign in again."""
    from hubbub import users

    users.run(settings, users.change(username, disabled=False))
    click.echo(f"{username} can sign in")


@_user("role", _name, click.argument("role", type=click.Choice(["member", "admin"])))
def role(settings: Settings, username: str, role: str) -> None:
    """Make an account an administrator's, or no longer; it signs in again."""
    from hubbub import users

    users.run(settings, users.change(username, role=role))
    click.echo(f"{username} is {role}")


@_user("passwd", _name, _password, _generate)
def passwd(settings: Settings, username: str, password_stdin: bool, generate: bool) -> None:
    """Set a new password; every session of the account ends."""
    from hubbub import users

    users.run(settings, users.set_password(username, _read_password(username, password_stdin, generate)))
    click.echo(f"the password of {username} is changed")


@_user(
    "revoke",
    click.argument("username", metavar="[NAME]", required=False),
    click.option("--token", "token_id", metavar="ID", help="One token, by its jti, instead of all of a user's."),
)
def revoke(settings: Settings, username: str | None, token_id: str | None) -> None:
    """Void all tokens that NAME has now, with an account or without: sessions end within a second."""
    from hubbub import users

    if (username is None) == (token_id is None):
        raise click.UsageError("give either NAME or --token ID")
    users.run(settings, users.revoke(username, token_id))
    click.echo(f"the tokens of {username} are void" if username else f"the token {token_id} is void")


def _read_password(username: str, from_stdin: bool, generate: bool) -> str:
    if generate:
        password = secrets.token_urlsafe(15)
        click.echo(f"password: {password}")
        return password
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    typed: str = click.prompt(f"Password for {username}", hide_input=True, confirmation_prompt=True)
    return typed


def _prepare(settings: Settings) -> None:
    from hubbub.up import prepare

    prepare(settings)


if __name__ == "__main__":
    main()
