"""Every setting, with its default, its bounds and what it means.

Flags win over the environment (`THANOPROXY_<SECTION>__<NAME>`), the environment over the TOML file, the file over the defaults.
Lists are TOML lists; in the environment folders are separated as in PATH, and names by commas.  Relative paths count from the working
folder.
A wrong setting is a `ConfigurationError` whose message is one line that names it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast
from urllib.parse import unquote, urlsplit

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from thanoproxy.address import Address, check_options, parse_url
from thanoproxy.errors import ConfigurationError
from thanoproxy.places import Images, Store
from thanoproxy.section import File, Folder, Folders, Section

__all__ = [
    "Artifacts",
    "Auth",
    "Files",
    "Images",
    "Server",
    "Settings",
    "Store",
    "Tls",
    "Upstream",
    "Weights",
    "Workers",
    "data_directory",
    "load",
    "restore",
]

PREFIX = "THANOPROXY_"
NESTED = "__"


def data_directory() -> Path:
    """Where what we keep lies unless told otherwise: /var/lib/thanoproxy as root, else $XDG_DATA_HOME/thanoproxy."""
    if os.geteuid() == 0:
        return Path("/var/lib/thanoproxy")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "thanoproxy"


class Server(Section):
    """Where clients connect."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 or :: for every interface")
    port: int = Field(default=7432, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    login_timeout: float = Field(default=60.0, gt=0, le=3600, description="seconds a client may take to log in")
    max_arriving: int = Field(
        default=512, ge=1, le=65536, description="connections that may be on their way in at once, at each front; the next ones wait"
    )
    fronts: int = Field(default=1, ge=1, le=64, description="processes that share the port and the workers; each uses one core")


class Tls(Section):
    """Encryption of the connections of clients; see [TLS and passwords](tls.md)."""

    mode: Literal["off", "prefer", "require"] = Field(
        default="off", description="off: never; prefer: for clients that ask for it; require: the others are refused"
    )
    certificate: File | None = Field(default=None, description="PEM file of our certificate, and of what it is signed by")
    key: File | None = Field(default=None, description="PEM file of its key, without a password; none if `certificate` holds it, too")
    client_ca: File | None = Field(
        default=None, description="PEM file of authorities; clients that use TLS are asked for a certificate of theirs"
    )
    client_certificates: Literal["require", "optional"] = Field(
        default="require", description="with `client_ca`: whether a client that uses TLS may come without a certificate"
    )
    min_version: Literal["TLSv1.2", "TLSv1.3"] = Field(default="TLSv1.2", description="oldest version of TLS that is spoken")
    max_version: Literal["TLSv1.2", "TLSv1.3"] = Field(default="TLSv1.3", description="newest version of TLS that is spoken")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mode != "off" and self.certificate is None:
            raise ValueError(f"mode {self.mode} needs tls.certificate")
        if self.min_version > self.max_version:
            raise ValueError("min_version is newer than max_version")
        return self


VERIFIER_QUERY = (
    "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin "
    "AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())"
)


class Auth(Section):
    """Who checks the passwords of clients; see [TLS and passwords](tls.md)."""

    mode: Literal["relay", "scram"] = Field(
        default="relay", description="relay: PostgreSQL, with its own methods; scram: the proxy, by SCRAM-SHA-256 with channel binding"
    )
    verifiers: File | None = Field(default=None, description='for scram: file of lines `"user" "SCRAM-SHA-256$…"`; else `auth.query`')
    query: str = Field(
        default=VERIFIER_QUERY,
        min_length=1,
        description="for scram: SQL that gets the verifier of user $1, run as the role of upstream.url; its last column counts",
    )


class Upstream(Section):
    """The PostgreSQL behind us: one that runs already (`url`), or one of our own (`embedded`)."""

    url: str | None = Field(
        default=None, repr=False, description="postgresql://user:password@host:port/database?sslmode=…; its role also writes thanosql.jobs"
    )
    embedded: Folder | None = Field(default=None, description="folder of a PostgreSQL that we start ourselves, in place of url")
    mirror_tls: bool = Field(
        default=False,
        description="encrypt the server's leg of exactly those clients that use TLS, so that `hostssl` and `hostnossl` mean the clients",
    )
    vouch: bool = Field(
        default=False,
        description="show `sslcert` of `url` only for clients with a certificate of `tls.client_ca` in the name of the user they log in as",
    )

    @field_validator("url")
    @classmethod
    def _whole(cls, url: str | None) -> str | None:
        if url is not None:
            check_options(parse_url(url).options)
        return url

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.url is not None and self.embedded is not None:
            raise ValueError("url and embedded exclude each other")
        options = {} if self.url is None else self.address.options
        plain = self.url is None or self.address.socket_directory is not None or options.get("sslmode") == "disable"
        if self.mirror_tls and plain:
            raise ValueError("mirror_tls needs a server that is reached by TCP, and by an sslmode that is not disable")
        if self.vouch and (plain or not options.get("sslcert")):
            raise ValueError("vouch needs a url with TLS and sslcert")
        return self

    @property
    def address(self) -> Address:
        """`url` taken apart.  Raises `ConfigurationError` where there is none."""
        return parse_url(self.required_url)

    @property
    def required_url(self) -> str:
        """`url`.  Raises `ConfigurationError` where there is none."""
        if self.url is None:
            raise ConfigurationError("upstream.url is not set: give --upstream postgresql://…, or --embedded")
        return self.url


class Weights(Section):
    """Where pretrained weights come from."""

    roots: Folders = Field(default=(), description="folders that OPTIONS (weights='…') and pretrained weights are looked up in")
    download: bool = Field(default=False, description="whether pretrained weights that are nowhere else may be downloaded")


class Files(Section):
    """Where files may lie that statements name: models that are exported or uploaded, CSV and parquet files."""

    roots: Folders = Field(
        default=(),
        description="folders that EXPORT MODEL may write new files in, and UPLOAD MODEL and COPY … OPTIONS read; any role may",
    )


def _artifact_url() -> str:
    return (data_directory() / "artifacts").as_uri()


class Artifacts(Section):
    """Where the weights of built models are kept."""

    url: str = Field(default_factory=_artifact_url, description="file:///folder that holds the weights of built models")
    sweep_after: float = Field(
        default=0, ge=0, le=87600, description="hours after which the files of a model that is gone are deleted; 0: never"
    )

    @field_validator("url")
    @classmethod
    def _file(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError("should be file:///folder")
        return url

    @property
    def folder(self) -> Path:
        """The folder that `url` names."""
        return Path(unquote(urlsplit(self.url).path))


class Workers(Section):
    """The processes that run the models."""

    pool: Literal["local", "inline"] = Field(default="local", description="local: one process a device; inline: a thread, for tests")
    devices: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$",
        description="auto: every GPU, else the CPU; cpu; or a list such as cuda:0,cuda:1",
    )
    build_devices: str = Field(
        default="own",
        description="what a BUILD trains all of a network on; own: its worker's device; all: every GPU; or a list such as cuda:0,cuda:1",
    )
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of each worker; 0 lets it choose")
    compile: Literal["auto", "off"] = Field(
        default="auto", description="auto: on GPUs networks are compiled in the background; off: nowhere"
    )
    decoders: Literal["auto", "threads", "processes"] = Field(
        default="auto", description="what decodes images; auto: processes beside a GPU on more than eight cores, else threads"
    )
    gpu_decode: bool = Field(
        default=False, description="a GPU decodes JPEG files for PREDICT itself (nvJPEG), as far as it can; not the very same pixels"
    )
    queue_rows: int = Field(
        default=65536,
        ge=1,
        description="rows that may wait at each worker when another PREDICT begins, or it is refused; one that runs has 256 (GPU: 1024)",
    )
    prediction_cache: int = Field(
        default=256, ge=0, le=1 << 20, description="MB of predictions that each worker keeps for images it sees again; 0: none"
    )
    hang_after: float = Field(
        default=300.0,
        ge=0,
        le=86400,
        description="seconds after which a worker that does not get on is replaced; more than one image or model takes to read; 0: never",
    )

    @field_validator("build_devices")
    @classmethod
    def _devices_once(cls, names: str) -> str:
        if not re.fullmatch(r"own|all|cpu(,cpu)*|cuda:\d+(,cuda:\d+)*", names):
            raise ValueError("should be own, all, or a list such as cuda:0,cuda:1")
        gpus = [name for name in names.split(",") if name != "cpu"]
        if len(set(gpus)) < len(gpus):
            raise ValueError("should name each GPU once")
        return names


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True, validate_default=True)

    server: Server = Server()
    tls: Tls = Tls()
    upstream: Upstream = Upstream()
    auth: Auth = Auth()
    images: Images = Images()
    weights: Weights = Weights()
    files: Files = Files()
    artifacts: Artifacts = Field(default_factory=Artifacts)
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.upstream.vouch and (self.tls.mode == "off" or self.tls.client_ca is None):
            raise ValueError("upstream.vouch needs tls.client_ca, and a tls.mode that is not off")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def load(file: Path | None = None, flags: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """The settings of this process; `flags` holds sections of settings as given on the command line.

    `file` is the TOML file, by default the one that THANOPROXY_CONFIG names, if it names one.
    Raises `ConfigurationError` with one line that names the setting.
    """
    named = os.environ.get(PREFIX + "CONFIG")
    written = _read(file or (Path(named) if named else None))
    _refuse_unknown_sections(os.environ)

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **more: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, EnvSettingsSource(settings_cls), InitSettingsSource(settings_cls, written)

    try:
        found = Layered.model_validate(_exclusive(flags or {}))
    except (ValidationError, SettingsError) as error:
        raise ConfigurationError(_one_line(error)) from None
    # A class made in a function cannot be sent to another process; its sections can.
    sections = {name: getattr(found, name) for name in Settings.model_fields}
    if found.server.fronts > 1 and found.workers.pool == "inline":
        raise ConfigurationError("server.fronts: several fronts cannot share the workers of workers.pool = inline")
    return Settings.model_construct(**{**sections, "artifacts": _beside(found.artifacts, found.upstream)})


def restore(plain: Mapping[str, Any]) -> Settings:
    """Settings that another process of ours has checked, from their `model_dump`; neither files nor the environment count."""
    sections = {name: cast(type[Section], field.annotation) for name, field in Settings.model_fields.items()}
    checked: dict[str, Any] = {name: section.model_validate(plain[name]) for name, section in sections.items()}
    return Settings.model_construct(**checked)


def _beside(artifacts: Artifacts, upstream: Upstream) -> Artifacts:
    """The models of an embedded server lie in its folder, unless their place was chosen."""
    if upstream.embedded is None or "url" in artifacts.model_fields_set:
        return artifacts
    return artifacts.model_copy(update={"url": (upstream.embedded / "artifacts").as_uri()})


def _exclusive(flags: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`flags`, where one kind of upstream also unsets the other kind, wherever that came from."""
    sections = {name: dict(section) for name, section in flags.items()}
    upstream = sections.get("upstream", {})
    for given, other in (("url", "embedded"), ("embedded", "url")):
        if upstream.get(given) is not None:
            upstream.setdefault(other, None)
    return sections


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigurationError(f"the configuration file {file} is not valid TOML: {error}") from None


def _refuse_unknown_sections(environment: Mapping[str, str]) -> None:
    for name in environment:
        if name.upper().startswith(PREFIX) and NESTED in name:
            section = name[len(PREFIX) :].split(NESTED)[0].lower()
            if section not in Settings.model_fields:
                raise ConfigurationError(f"{name}: there is no section {section!r} (there are: {', '.join(Settings.model_fields)})")


def _one_line(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error).splitlines()[0]
    first, *more = error.errors(include_url=False, include_context=False)
    name = ".".join(str(part) for part in first["loc"]) or "settings"
    message = first["msg"].removeprefix("Value error, ").replace("Extra inputs are not permitted", "there is no such setting")
    secret = name in ("settings", "upstream", "upstream.url") or name.startswith("images.stores") or first["type"] == "extra_forbidden"
    given = "" if secret else f" (given: {first['input']!r})"
    rest = f"; and {len(more)} more" if more else ""
    return f"{name}: {message[:1].lower()}{message[1:]}{given}{rest}"
