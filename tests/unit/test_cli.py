import shlex
import socket
import stat

import jwt
import pytest
from click.testing import CliRunner

from hubbub import settings as hubbub_settings
from hubbub import up
from hubbub.cli import main
from hubbub.runtime.files import read_secret


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "HUBBUB_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*args, code=0):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == code, result.output
        return result.output

    return invoke


def data_dir(tmp_path):
    return tmp_path / ".local" / "share" / "hubbub"


def test_a_token_is_signed_with_the_secret_it_makes(run, tmp_path):
    first, second = run("token", "ann", "--ttl", "15m").strip(), run("token", "ann").strip()
    secret = read_secret(data_dir(tmp_path) / "secrets" / "token")
    claims = jwt.decode(first, secret, algorithms=["HS256"], options={"require": ["sub", "iat", "exp", "jti"]})
    assert claims["sub"] == "ann"
    assert 15 * 60 - 1 < claims["exp"] - claims["iat"] <= 15 * 60
    assert claims["jti"] != jwt.decode(second, secret, algorithms=["HS256"])["jti"]


@pytest.mark.parametrize("ttl", ["0s", "soon", "-1m", "1w", ""])
def test_a_wrong_ttl(run, ttl):
    assert "--ttl" in run("token", "ann", "--ttl", ttl, code=2)


def test_a_wrong_name(run):
    assert "a username has" in run("token", "a:b", code=1)


def test_a_secret_of_ones_own_is_never_made_up(run, tmp_path):
    assert "No such file" in run("token", "ann", "--token-secret-file", str(tmp_path / "mine"), code=1)
    assert not (tmp_path / "mine").exists()


def test_keys_are_private_and_never_replaced_by_accident(run, tmp_path):
    run("keys")
    directory = data_dir(tmp_path) / "secrets" / "curve"
    names = {"broker.public", "broker.secret", "peer.public", "peer.secret"}
    assert {path.name for path in directory.iterdir()} == names
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
    before = (directory / "broker.secret").read_bytes()
    assert len(before.strip()) == 40  # Z85
    assert "--force" in run("keys", code=1)
    assert (directory / "broker.secret").read_bytes() == before
    run("keys", "--force")
    assert (directory / "broker.secret").read_bytes() != before


def test_the_table_of_settings(run):
    lines = run("settings").splitlines()
    assert len(lines) == 2 + len(hubbub_settings.table())
    assert any("HUBBUB_LIMIT_RATE" in line and "50" in line for line in lines)


def test_every_setting_is_an_option_of_up(run):
    text = run("up", "--help")
    assert all(row.option in text for row in hubbub_settings.table())


def test_an_error_names_the_option_or_the_variable(run, monkeypatch):
    assert "--port: '0' is not allowed" in run("up", "--port", "0", code=1)
    monkeypatch.setenv("HUBBUB_SHARDS", "none")
    assert "HUBBUB_SHARDS: 'none' is not allowed" in run("up", code=1)


def test_env_prints_what_supervisord_needs(run, tmp_path, monkeypatch):
    (tmp_path / "h.toml").write_text("port = 9001\n")
    monkeypatch.setenv("HUBBUB_CONFIG", str(tmp_path / "h.toml"))
    place = tmp_path / "a b"
    lines = run("env", "--data-dir", str(place), "--shards", "3").splitlines()
    exported = dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export "))
    assert exported["HUBBUB_DATA_DIR"] == str(place)
    assert exported["HUBBUB_SHARDS"] == "3"
    assert exported["HUBBUB_PORT"] == "9001"
    assert exported["HUBBUB_SOCKET_DIR"] == str(hubbub_settings.socket_dir(place))
    assert "unset HUBBUB_CONFIG" in lines  # a relative path would mean another file to the programs
    for path in (place, place / "run", place / "logs", place / "secrets"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_status_where_nothing_runs(run):
    assert "Hubbub does not run on" in run("status", code=1)


def settings_for(tmp_path, **given):
    return hubbub_settings.load({"HOME": str(tmp_path)}, overrides={"data_dir": tmp_path / "data", **given})


def test_a_port_in_use_is_told_at_once(tmp_path):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the shards do
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_for(tmp_path, port=taken.getsockname()[1])
        up.prepare(settings)
        with pytest.raises(up.UpError, match="is in use; choose another with --port"):
            up.up(settings)


def test_the_summary_hides_the_password(tmp_path):
    given = {"database_url": "postgresql://ann:hunter2@db.example/chat?password=hunter2", "limit_rate": "0"}
    text = "\n".join(up.summary(settings_for(tmp_path, **given)))
    assert "hunter2" not in text
    assert "postgresql://ann@db.example/chat  (--database-url)" in text
    assert "limit_rate           0  (--limit-rate)" in text
    assert "limit_burst" not in text


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("chat.example.org", "http://chat.example.org:8000"),
    ],
)
def test_the_address_a_person_opens(tmp_path, host, address):
    assert up.address(settings_for(tmp_path, host=host)) == address


def test_the_programs_run_with_this_python(tmp_path):
    import sys
    from pathlib import Path

    environment = up.environment(settings_for(tmp_path), {"PATH": "/usr/bin", "HUBBUB_CONFIG": "x"})
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert "HUBBUB_CONFIG" not in environment
