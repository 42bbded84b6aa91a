import sys
from pathlib import Path

import msgspec
import pytest

from hubbub import settings
from hubbub.protocol.limits import Limits
from hubbub.settings import SettingsError, load

HOME = {"HOME": "/home/ann"}


def test_no_settings_needed():
    made = load(HOME, cores=3)
    assert made.data_dir == Path("/home/ann/.local/share/hubbub")
    assert made.shards == 3
    assert made.bus_url == "ipc:///home/ann/.local/share/hubbub/run/bus.sock"
    assert made.token_secret_file == made.data_dir / "secrets" / "token"
    assert made.limits == Limits()
    assert set(made.origins.values()) == {"default"}


def test_xdg_data_home_comes_before_home():
    assert load({**HOME, "XDG_DATA_HOME": "/data"}).data_dir == Path("/data/hubbub")


def test_without_a_home_the_data_dir_must_be_given():
    with pytest.raises(SettingsError, match=r"^HUBBUB_DATA_DIR: must be set"):
        load({})
    assert load({"HUBBUB_DATA_DIR": "/srv/h"}).data_dir == Path("/srv/h")


def test_option_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "hubbub.toml"
    file.write_text("port = 1001\nshards = 4\nlimit_burst = 7\nguests = 'never'\n")
    made = load({**HOME, "HUBBUB_PORT": "1002", "HUBBUB_SHARDS": "5"}, file, {"port": "1003", "shards": None})
    assert (made.port, made.shards, made.limits.burst, made.guests) == (1003, 5, 7, "never")
    origins = {name: origin for name, origin in made.origins.items() if origin != "default"}
    assert origins == {
        "port": "--port",
        "shards": "HUBBUB_SHARDS",
        "limit_burst": str(file),
        "guests": str(file),
    }


def test_an_empty_variable_was_not_given():
    assert load({**HOME, "HUBBUB_PORT": "", "HUBBUB_DATABASE_URL": ""}).port == 8000


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("port", "0", "1 to 65535"),
        ("port", "65536", "1 to 65535"),
        ("port", "80.5", "whole number"),
        ("port", "tcp://10.0.0.1:8000", "whole number"),
        ("shards", "0", "1 to 256"),
        ("shards", "many", "whole number"),
        ("host", "a b", "IP address or a host name"),
        ("guests", "maybe", "loopback, always or never"),
        ("database_url", "mysql://ann:hunter2@db/x", "postgresql://"),
        ("database_url", "localhost", "postgresql://"),
        ("bus_url", "ipc://relative/path", "absolute"),
        ("bus_url", "ipc:///" + "x" * 107, "107 bytes"),
        ("bus_url", "udp://1.2.3.4:5", "tcp://"),
        ("token_in_query", "perhaps", "true or false"),
        ("allowed_origins", "chat.example.org", "https://"),
        ("allowed_origins", "https://chat.example.org/path", "https://"),
        ("store_slots", "0-64", "0 to 63"),
        ("store_slots", "5-3", "0 to 63"),
        ("store_slots", "a", "0 to 63"),
        ("log_level", "loud", "debug, info"),
        ("log_format", "xml", "auto, json"),
        ("metrics", "2", "true or false"),
        ("otel_endpoint", "127.0.0.1:4318", "http(s) URL"),
        ("otel_share", "1.5", "0 to 1"),
        ("otel_share", "some", "0 to 1"),
        ("limit_rate", "-1", "0 for unlimited"),
        ("limit_rate", "nan", "0 for unlimited"),
        ("limit_rate", "inf", "0 for unlimited"),
        ("limit_batch", "0", "from 1"),
        ("data_dir", "a\0b", "a path"),
    ],
)
def test_an_error_names_the_key_as_written_and_says_what_is_allowed(tmp_path, name, wrong, says):
    with pytest.raises(SettingsError) as by_variable:
        load({**HOME, settings.env_name(name): wrong})
    assert by_variable.value.key == settings.env_name(name)
    assert says in by_variable.value.problem
    assert "hunter2" not in str(by_variable.value)

    with pytest.raises(SettingsError) as by_option:
        load(HOME, overrides={name: wrong})
    assert by_option.value.key == settings.option_name(name)

    if "\0" not in wrong:
        file = tmp_path / "hubbub.toml"
        file.write_text(f'{name} = "{wrong}"\n')
        with pytest.raises(SettingsError) as by_file:
            load(HOME, file)
        assert by_file.value.key == f"{name} in {file}"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HUBBUB_PROT": "1"}, r"HUBBUB_PROT: there is no such setting; did you mean HUBBUB_PORT\?"),
        ({"HUBBUB_GUEST": "never"}, r"did you mean HUBBUB_GUESTS\?"),
        ({"HUBBUB_XYZZY": "1"}, "`hubbub settings` lists them all"),
    ],
)
def test_a_misspelt_setting_is_not_passed_over(environ, message):
    with pytest.raises(SettingsError, match=message):
        load({**HOME, **environ})


def test_variables_that_are_no_settings_are_left_alone():
    load({**HOME, "HUBBUB_SHARD_INDEX": "3", "HUBBUB_SERVICE_HOST": "10.0.0.1", "HUBBUB_PORT_8000_TCP": "tcp://x"})


def test_toml_has_types_of_its_own(tmp_path):
    file = tmp_path / "hubbub.toml"
    file.write_text(
        'allowed_origins = ["https://A.example"]\nstore_slots = [1, 2, 9]\nmetrics = false\nlimit_rate = 2.5'
    )
    made = load(HOME, file)
    assert made.allowed_origins == ("https://a.example",)
    assert made.store_slots == (1, 2, 9)
    assert made.metrics is False
    assert made.limits.rate == 2.5


@pytest.mark.parametrize("text", ["port = true", "port = 80.0", "metrics = 1", "store_slots = {}", "guests = 1"])
def test_toml_values_of_the_wrong_type(tmp_path, text):
    file = tmp_path / "hubbub.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="is not allowed"):
        load(HOME, file)


def test_a_file_that_cannot_be_used(tmp_path):
    with pytest.raises(SettingsError, match=r"HUBBUB_CONFIG: cannot read .*No such file"):
        load(HOME, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("port = = 1")
    with pytest.raises(SettingsError, match=r"bad\.toml: is not valid TOML"):
        load(HOME, tmp_path / "bad.toml")


def test_limits_must_fit_each_other():
    with pytest.raises(SettingsError, match=r"^HUBBUB_LIMIT_FRAME_BYTES: .*cannot carry"):
        load({**HOME, "HUBBUB_LIMIT_FRAME_BYTES": "1000"})
    with pytest.raises(SettingsError, match=r"^--limit-content-bytes: "):
        load(HOME, overrides={"limit_content_bytes": 10**6})


def test_tracing_without_its_extra_says_what_to_install(monkeypatch):
    assert load({**HOME, "HUBBUB_OTEL_ENDPOINT": "http://127.0.0.1:4318"}).broker().otel_share == 1
    for name in ("opentelemetry", "opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"):
        monkeypatch.setitem(sys.modules, name, None)  # as where they are not installed
    assert load(HOME).otel_endpoint == "", "nobody needs it who does not trace"
    with pytest.raises(SettingsError, match=r"^HUBBUB_OTEL_ENDPOINT: .*pip install .*hubbub\[otel\]"):
        load({**HOME, "HUBBUB_OTEL_ENDPOINT": "http://127.0.0.1:4318"})


def test_the_environment_of_the_programs_says_the_same():
    given = {
        "port": "1234",
        "store_slots": "0-31,40",
        "allowed_origins": "https://a.example,https://b.example",
        "limit_rate": "0",
        "token_in_query": "yes",
        "database_url": "postgresql://u:p@h/d",
    }
    made = load(HOME, overrides=given, cores=2)
    again = settings.from_environ(made.environ())
    assert msgspec.structs.replace(again, origins={}) == msgspec.structs.replace(made, origins={})


def test_relative_paths_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load(HOME, overrides={"data_dir": "data"}).data_dir == tmp_path / "data"


@pytest.mark.parametrize(
    ("host", "guests", "allowed"),
    [
        ("127.0.0.1", "loopback", True),
        ("127.8.8.8", "loopback", True),
        ("::1", "loopback", True),
        ("localhost", "loopback", True),
        ("0.0.0.0", "loopback", False),
        ("::", "loopback", False),
        ("chat.example.org", "loopback", False),
        ("0.0.0.0", "always", True),
        ("127.0.0.1", "never", False),
    ],
)
def test_guests(host, guests, allowed):
    assert load(HOME, overrides={"host": host, "guests": guests}).guests_allowed is allowed


def test_each_process_gets_its_part():
    made = load({**HOME, "HUBBUB_DATABASE_URL": "postgresql://u:p@h/d"})
    assert made.store().database_url == "postgresql://u:p@h/d"
    assert not made.postgres().wanted
    assert made.shard(1).name == "shard-1"
    assert "p@h" not in repr(made.shard(0)) + repr(made.broker())
    embedded = load(HOME)
    assert embedded.postgres().wanted
    assert embedded.store().database_url == embedded.postgres().url


def test_the_embedded_url_survives_odd_paths():
    made = load(HOME, overrides={"data_dir": "/srv/a b/100%/?x&y"})
    from psycopg.conninfo import conninfo_to_dict

    assert conninfo_to_dict(made.store().database_url) == {
        "user": "hubbub",
        "dbname": "hubbub",
        "host": "/srv/a b/100%/?x&y/run/postgres",
    }


def test_sockets_of_a_long_path_go_below_tmp():
    longest = Path("/" + "x" * (107 - len("/postgres/.s.PGSQL.5432") - len("/run") - 1))
    assert settings.socket_dir(longest) == longest / "run"
    assert len(str(settings.socket_dir(longest) / "postgres" / ".s.PGSQL.5432")) == 107
    other = settings.socket_dir(Path(str(longest) + "y"))
    assert other.parent == Path("/tmp")
    assert other != settings.socket_dir(Path(str(longest) + "z"))


def test_the_table_has_every_setting_and_what_it_means():
    rows = settings.table()
    fields = {field.name for field in msgspec.structs.fields(settings.Settings)} - {"limits", "origins"}
    limits = {"limit_" + field.name for field in msgspec.structs.fields(Limits)}
    assert {row.name for row in rows} == fields | limits
    assert all(row.meaning and row.allowed for row in rows)


@pytest.mark.parametrize(("text", "index"), [("0", 0), ("12", 12)])
def test_shard_index(text, index):
    assert settings.shard_index({"HUBBUB_SHARD_INDEX": text}) == index


def test_a_wrong_shard_index():
    with pytest.raises(SettingsError, match="HUBBUB_SHARD_INDEX"):
        settings.shard_index({"HUBBUB_SHARD_INDEX": "-1"})
