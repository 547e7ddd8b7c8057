from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from thanoproxy import config
from thanoproxy.config import Settings, load, restore
from thanoproxy.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("THANOPROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "thanoproxy.toml"
        file.write_text(text)
        return file

    return write


def test_defaults() -> None:
    settings = load()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 7432)
    assert settings.images.roots == settings.weights.roots == ()
    assert settings.weights.download is False
    assert (settings.workers.pool, settings.workers.devices) == ("local", "auto")


def test_flags_win_over_the_environment_and_that_over_the_file(toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml("[server]\nhost = 'file'\nport = 1\nlogin_timeout = 3\n[images]\nroots = ['/a', '/b']")
    monkeypatch.setenv("THANOPROXY_SERVER__HOST", "environment")
    monkeypatch.setenv("THANOPROXY_SERVER__PORT", "2")
    settings = load(file, {"server": {"host": "flag"}})
    assert settings.server == config.Server(host="flag", port=2, login_timeout=3)
    assert settings.images.roots == (Path("/a"), Path("/b"))


def test_the_file_may_be_named_in_the_environment(toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THANOPROXY_CONFIG", str(toml("[server]\nport = 5")))
    assert load().server.port == 5


def test_folders_are_separated_as_in_path_and_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("THANOPROXY_IMAGES__ROOTS", "/a::b:~/c")
    assert load().images.roots == (Path("/a"), tmp_path / "b", Path("/home/me/c"))


def test_one_kind_of_upstream_given_as_a_flag_replaces_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THANOPROXY_UPSTREAM__URL", "postgresql://u@h/d")
    upstream = load(flags={"upstream": {"embedded": Path("/x")}}).upstream
    assert (upstream.url, upstream.embedded) == (None, Path("/x"))
    monkeypatch.setenv("THANOPROXY_UPSTREAM__EMBEDDED", "/y")
    upstream = load(flags={"upstream": {"url": "postgresql://h"}}).upstream
    assert (upstream.url, upstream.embedded) == ("postgresql://h", None)


def test_hosts_and_stores_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THANOPROXY_IMAGES__URL_HOSTS", "A.example, *.b.example:8443,*")
    monkeypatch.setenv("THANOPROXY_IMAGES__PRIVATE_URL_HOSTS", '["minio.lan:9000", "[::1]:9"]')
    monkeypatch.setenv("THANOPROXY_IMAGES__STORES", '["s3://a", {"url": "az://b/c/d/", "credentials": "keys.toml"}]')
    images = load().images
    assert images.url_hosts == ("a.example", "*.b.example:8443", "*")
    assert images.private_url_hosts == ("minio.lan:9000", "[::1]:9")
    assert [store.parts for store in images.stores] == [("s3", "a", ""), ("az", "b", "c/d")]
    assert [store.credentials for store in images.stores] == ["environment", str(tmp_path / "keys.toml")]
    monkeypatch.setenv("THANOPROXY_IMAGES__STORES", "s3://a,gs://b/c")
    assert [store.parts for store in load().images.stores] == [("s3", "a", ""), ("gs", "b", "c")]


def test_settings_cross_to_another_process() -> None:
    settings = load(flags={"server": {"port": 9}, "images": {"stores": ["s3://a/b"], "url_hosts": ["*"]}})
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert restore(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SERVER__PORT", "99999", "server.port: input should be less than or equal to 65535 (given: '99999')"),
        ("SERVER__PORT", "x", "server.port: "),
        ("SERVER__LOGIN_TIMEOUT", "0", "server.login_timeout: "),
        ("SERVER__PROT", "1", "server.prot: there is no such setting"),
        ("SERVR__PORT", "1", "THANOPROXY_SERVR__PORT: there is no section 'servr'"),
        ("WORKERS__POOL", "cloud", "workers.pool: input should be 'local' or 'inline' (given: 'cloud')"),
        ("WORKERS__DEVICES", "tpu", "workers.devices: "),
        ("WORKERS__BUILD_DEVICES", "cpu,cuda:0", "workers.build_devices: should be own, all, or a list such as cuda:0,cuda:1"),
        ("WORKERS__BUILD_DEVICES", "cuda:0,cuda:0", "workers.build_devices: should name each GPU once"),
        ("ARTIFACTS__URL", "s3://b", "artifacts.url: should be file:///folder"),
        ("ARTIFACTS__URL", "file://host/x", "artifacts.url: should be file:///folder"),
        ("UPSTREAM__URL", "mysql://u:geheim@h", "upstream.url: should begin with postgresql://"),
        ("UPSTREAM__URL", "postgresql://u:geheim@h,i/d", "upstream.url: should name one host"),
        ("UPSTREAM__URL", "postgresql://u:geheim@h:0/d", "upstream.url: should have a port"),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?sslmode=on", "upstream.url: sslmode should be one of disable, allow, "),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?ssl=true", "upstream.url: there is no parameter 'ssl' (there are: sslmode, "),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?channel_binding=require", "upstream.url: there is no parameter 'channel_binding'"),
        (
            "UPSTREAM__URL",
            "postgresql://u:geheim@h/d?sslnegotiation=none",
            "upstream.url: sslnegotiation should be one of",
        ),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?sslnegotiation=direct", "upstream.url: sslnegotiation=direct needs"),
        (
            "UPSTREAM__URL",
            "postgresql://u:geheim@h/d?sslrootcert=system&sslmode=require",
            "upstream.url: sslrootcert=system needs",
        ),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?sslkey=k", "upstream.url: sslkey needs sslcert"),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?sslpassword=geheim", "upstream.url: sslpassword needs sslcert"),
        ("UPSTREAM__URL", "postgresql://u:geheim@h/d?ssl_min_protocol_version=SSLv3", "upstream.url: ssl_min_protocol_version should be"),
        (
            "UPSTREAM__URL",
            "postgresql://u:geheim@h/d?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            "upstream.url: ssl_min_protocol_version is newer than ssl_max_protocol_version",
        ),
        ("WEIGHTS__DOWNLOAD", "perhaps", "weights.download: "),
        ("IMAGES__URL_HOSTS", "https://a.example", "images.url_hosts: 'https://a.example' should be a host, "),
        ("IMAGES__URL_HOSTS", "a.*.example", "images.url_hosts: 'a.*.example' should be a host, "),
        ("IMAGES__URL_HOSTS", "a.example:0", "images.url_hosts: 'a.example:0' should be a host, "),
        ("IMAGES__PRIVATE_URL_HOSTS", "*.lan", "images.private_url_hosts: '*.lan' should be a host, "),
        ("IMAGES__PRIVATE_URL_HOSTS", "*", "images.private_url_hosts: '*' should be a host, "),
        ("IMAGES__STORES", "ftp://b", "images.stores.0.url: should be s3://bucket, "),
        ("IMAGES__STORES", "s3://u:geheim@b/x", "images.stores.0.url: should be s3://bucket, "),
        ("IMAGES__STORES", "s3://b/x,s3://b/x/", "images.stores: two of them have the same url"),
        ("IMAGES__STORES", '[{"url": "s3://b", "endpoint": "http://u:geheim@h"}]', "images.stores.0.endpoint: should be https://host "),
        ("IMAGES__STORES", '[{"url": "s3://b", "secret": "geheim"}]', "images.stores.0.secret: there is no such setting"),
        ("IMAGES__STORES", '[{"url": "geheim', "images.stores: "),
        ("IMAGES__REMOTE_READS", "0", "images.remote_reads: "),
        ("IMAGES__REMOTE_TIMEOUT", "0", "images.remote_timeout: "),
        ("CONFIG", "/no/such/file", "cannot read the configuration file /no/such/file: No such file or directory"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    monkeypatch.setenv("THANOPROXY_" + variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", "is not valid TOML"),
        ("[foo]\na = 1", "foo: there is no such setting"),
        ("[server]\nprt = 1", "server.prt: there is no such setting"),
        ("server = 3", "server: "),
        ("[upstream]\nurl = 'postgresql://u:geheim@h'\nembedded = '/x'", "upstream: url and embedded exclude each other"),
        ("[server]\nport = -1\nlogin_timeout = 0", "and 1 more"),
        ("[tls]\nmin_version = 'TLSv1.3'\nmax_version = 'TLSv1.2'", "tls: min_version is newer than max_version"),
        ("[upstream]\nmirror_tls = true", "upstream: mirror_tls needs a server that is reached by TCP"),
        ("[upstream]\nmirror_tls = true\nurl = 'postgresql://u:geheim@%2Frun/d'", "upstream: mirror_tls needs"),
        ("[upstream]\nmirror_tls = true\nurl = 'postgresql://u:geheim@h/d?sslmode=disable'", "upstream: mirror_tls needs"),
        ("[upstream]\nvouch = true\nurl = 'postgresql://u:geheim@h/d'", "upstream: vouch needs a url with TLS and sslcert"),
        ("[upstream]\nvouch = true\nurl = 'postgresql://u:geheim@h/d?sslcert=x'", "upstream.vouch needs tls.client_ca"),
    ],
)
def test_a_wrong_file(toml: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(toml(text))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert "geheim" not in caught.value.message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load(tmp_path / "x.toml")


def test_no_upstream_is_said_when_one_is_needed() -> None:
    with pytest.raises(ConfigurationError, match=r"upstream\.url is not set"):
        _ = Settings().upstream.address


def test_several_fronts_need_workers_of_their_own_process() -> None:
    with pytest.raises(ConfigurationError, match=r"server\.fronts: several fronts cannot share"):
        load(flags={"server": {"fronts": 2}, "workers": {"pool": "inline"}})
    assert load(flags={"server": {"fronts": 1}, "workers": {"pool": "inline"}}).server.fronts == 1


def test_settings_cross_to_another_process_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(
        flags={
            "server": {"fronts": 3, "login_timeout": 2.5},
            "upstream": {"url": "postgresql://u:geheim@h/d"},
            "images": {"roots": ["/a", "b"]},
            "tls": {"mode": "prefer", "certificate": "c.pem"},
            "artifacts": {"url": "file:///x"},
        }
    )
    plain = json.loads(json.dumps(found.model_dump(mode="json")))
    monkeypatch.setenv("THANOPROXY_SERVER__PORT", "1")
    monkeypatch.setenv("THANOPROXY_CONFIG", "/no/such")
    monkeypatch.chdir("/")
    assert restore(plain) == found


def test_a_password_is_not_shown_with_the_settings() -> None:
    assert "geheim" not in repr(load(flags={"upstream": {"url": "postgresql://u:geheim@h/d"}}))


def test_where_things_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data dir")
    assert load().artifacts.url == "file:///data%20dir/thanoproxy/artifacts"
    assert load().artifacts.folder == Path("/data dir/thanoproxy/artifacts")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert load().artifacts.folder == Path("/home/me/.local/share/thanoproxy/artifacts")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load().artifacts.folder == Path("/var/lib/thanoproxy/artifacts")


def test_models_lie_in_the_folder_of_an_embedded_server_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"upstream": {"embedded": Path("/x")}}
    assert load(flags=flags).artifacts.url == "file:///x/artifacts"
    monkeypatch.setenv("THANOPROXY_ARTIFACTS__URL", "file:///y")
    assert load(flags=flags).artifacts.url == "file:///y"


def sections() -> list[tuple[str, Any]]:
    return [(name, field.annotation) for name, field in Settings.model_fields.items()]


@pytest.mark.parametrize(("name", "section"), sections())
def test_every_setting_is_described(name: str, section: type[BaseModel]) -> None:
    assert section.__doc__
    for setting, field in section.model_fields.items():
        assert field.description, f"{name}.{setting}"
