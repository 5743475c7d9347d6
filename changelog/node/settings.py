"""The settings of both roles: typed, checked and complete before anything starts.

They come from the `.env` file and from the environment, which wins. A mistake stops the start with one line that names the file, the
setting and what is allowed; secrets are never shown. An empty value means the default.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tempfile
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from changelog.errors import ConfigError
from changelog.node.env_file import printable, read_env

DATA_MODE = 0o2770  # of the data folder: the group may do all, and files in it belong to the group
DATA_UMASK = 0o007  # of our processes: files are 0660
DATA_GROUP = "drover"  # operators in this group may use `sqlite3` on the files
STALE_LEAST = 30.0  # s without contact before a replica may call itself stale
AWS_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # where boto3 looks for them
_UNSET = Path()  # a path that `__post_init__` derives from data_dir

Parse = Callable[[str], Any]


def _flag(text: str) -> bool:
    value = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}.get(text.lower())
    if value is None:
        raise ValueError("True or False")
    return value


def _whole(low: int, high: int) -> Parse:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Parse:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"a number of seconds from {low:g} to {high:g}")
        return float(text) if "." in text else int(text)

    return parse


def _text(allowed: str, pattern: str) -> Parse:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(allowed)
        return text

    return parse


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _one_of(*allowed: str) -> Parse:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return text.lower()

    return parse


def _path(text: str) -> Path:
    if "\x00" in text:
        raise ValueError("a path")
    return Path(text).expanduser()


# Each kind of setting: its type, and what turns its text into a value or raises ValueError saying what is allowed.
Flag = Annotated[bool, _flag]
Port = Annotated[int, _whole(1, 65_535)]
Baud = Annotated[int, _whole(300, 4_000_000)]
Days = Annotated[int, _whole(0, 36_500)]
Bytes = Annotated[int, _whole(2**20, 2**50)]
Interval = Annotated[float, _seconds(0.1, 3600)]
Lag = Annotated[float, _seconds(1, 86_400)]
Clock = Annotated[str, _text("a time of day in UTC such as 03:30", r"([01][0-9]|2[0-3]):[0-5][0-9]")]
Level = Annotated[str, _level]
Follow = Annotated[str, _one_of("auto", "pi", "bucket")]
FilePath = Annotated[Path, _path]
OptionalPath = Annotated[Path | None, _path]
Name = Annotated[str, _text("text without spaces", r"\S+")]
Place = Annotated[str, _text("a name or a path on one line", r"[^\x00-\x1f\x7f]+")]
Host = Annotated[str, _text("a host name or an address, without scheme and port", r"[A-Za-z0-9._:%-]+")]
Url = Annotated[str, _text("an address such as https://s3.example.org", r"https?://[^\s/]\S*")]
SecretKey = Annotated[str, _text("at least 16 characters", r"\S{16,}")]
ApiKey = Annotated[str, _text("a key as `python -m pi key add` prints it", r"\S{8,}")]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every setting, named as in `.env` but in lower case."""

    # both roles
    data_dir: FilePath = Path("data")  # folder of the databases, the certificate and the logs
    log_level: Level = "INFO"  # DEBUG, INFO, WARNING or ERROR
    log_file: OptionalPath = None  # default <DATA_DIR>/log/<role>.log
    trust_loopback: Flag = True  # callers on this machine need no key for lora/receive, metrics and sync-status
    changelog_keep_days: Days = 30  # days of log that the Pi keeps at least
    changelog_max_bytes: Bytes = 2**30  # bytes of log at which the Pi trims all the same

    # the Pi
    pi_bind: Host = "0.0.0.0"  # address on which the API listens
    pi_port: Port = 5001
    pi_tls: Flag = True  # False: plain http, for loopback or a VPN only
    pi_cert: FilePath = _UNSET  # default <DATA_DIR>/pi-cert.pem; on the server: the certificate that is pinned
    pi_database: OptionalPath = None  # default <DATA_DIR>/farm.db
    lora_serial_port: Place = ""  # such as /dev/ttyUSB0; empty: no radio on this machine
    lora_baud: Baud = 115_200  # bits a second
    lora_open_ingest: Flag = False  # True: lora/receive takes payloads from anyone, without a key
    lora_processing_interval: Interval = 5  # s between looks at payloads that stand unprocessed
    litestream_bucket: Place = ""  # name of an S3 bucket, or a folder (/path or file:///path); empty: nothing is shipped
    litestream_path: Place = ""  # folder in the bucket
    litestream_endpoint: Url = ""  # address of an S3 server that is not Amazon's
    litestream_region: Name = ""  # such as eu-central-1
    ship_max_backlog: Bytes = 2**28  # bytes that may wait for the bucket

    # the server
    server_bind: Host = "0.0.0.0"  # address on which the pages listen
    server_port: Port = 5000
    secret_key: SecretKey = dataclasses.field(default="", repr=False)  # signs the sessions
    remote_pi_host: Host = "localhost"  # where the Pi is
    remote_pi_port: Port = 5001
    pi_api_key: ApiKey = dataclasses.field(default="", repr=False)
    use_ssl_for_pi: Flag = True
    use_self_signed_cert: Flag = True  # True: exactly PI_CERT is trusted; False: the system's CAs and the host name
    is_server_ui: Flag = True  # False: pages only, no sync
    follow: Follow = "auto"  # auto: the Pi, and the bucket (if one is set) while it cannot be reached; pi or bucket: that one alone
    db_sync_interval: Interval = 10  # s between pulls when no push comes
    stale_after: Lag = 0  # s without contact; default 3 x DB_SYNC_INTERVAL, at least 30
    ready_max_lag: Lag = 60  # s of lag at which /readyz says no
    audit_keep_days: Days = 0  # days of log that the replica keeps; 0: for ever
    verify_at: Clock = "03:30"  # time of day (UTC) of the nightly comparison with the Pi

    def __post_init__(self) -> None:
        """Fill in what follows from other settings."""
        if self.pi_cert == _UNSET:
            object.__setattr__(self, "pi_cert", self.data_dir / "pi-cert.pem")
        if self.follow == "bucket" and not self.litestream_bucket:
            raise ConfigError("FOLLOW=bucket needs LITESTREAM_BUCKET: there is no bucket to follow")
        if not self.stale_after:
            object.__setattr__(self, "stale_after", max(STALE_LEAST, 3 * self.db_sync_interval))

    @classmethod
    def load(cls, env_file: Path = Path(".env"), environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings of `env_file` (which may be missing) and `environ`; AWS_* in the file are put into `environ`, where boto3 looks.

        Raises ConfigError in one line.
        """
        known = {field.name.upper(): field for field in dataclasses.fields(cls)}
        filed = read_env(env_file)
        for key in filed:
            if key not in known and not key.startswith("AWS_"):
                raise ConfigError(f"{env_file}: unknown setting {printable(key)}: {_hint(key, known)}")
        rules = get_type_hints(cls, include_extras=True)
        values: dict[str, Any] = {}
        for key, field in known.items():
            for source, text in (("environment", environ.get(key, "")), (str(env_file), filed.get(key, ""))):
                if text.strip():
                    (parse,) = rules[field.name].__metadata__
                    values[field.name] = _parsed(source, key, text.strip(), parse, secret=not field.repr)
                    break
        if isinstance(environ, MutableMapping):
            for key, text in filed.items():
                if key.startswith("AWS_"):
                    environ.setdefault(key, text)
        return cls(**values)

    @property
    def farm_db(self) -> Path:
        """The Pi's database of herd data: the one that is replicated."""
        return self.pi_database or self.data_dir / "farm.db"

    @property
    def pi_db(self) -> Path:
        """The Pi's own database: keys, acknowledgements."""
        return self.data_dir / "pi.db"

    @property
    def replica_db(self) -> Path:
        """The server's exact copy, which only replay writes."""
        return self.data_dir / "replica.db"

    @property
    def server_db(self) -> Path:
        """The server's own database: sync history, tokens, settings."""
        return self.data_dir / "server.db"

    @property
    def mirror_db(self) -> Path:
        """The server's private copy of what is shipped to the bucket, page for page."""
        return self.data_dir / "bucket" / "mirror.db"

    @property
    def pi_key(self) -> Path:
        """The private key of `pi_cert`."""
        return self.pi_cert.with_name("pi-key.pem")

    @property
    def next_cert(self) -> Path:
        """On the Pi: the certificate that is to follow `pi_cert`, announced and not in use yet."""
        return self.pi_cert.with_name("pi-cert.next.pem")

    @property
    def next_key(self) -> Path:
        """The private key of `next_cert`."""
        return self.pi_cert.with_name("pi-key.next.pem")

    @property
    def announced_cert(self) -> Path:
        """On the server: the certificate that the Pi has announced as its next one, trusted beside `pi_cert`."""
        return self.pi_cert.with_name("pi-cert.announced.pem")

    @property
    def pi_address(self) -> str:
        """Host and port of the Pi, as in a URL."""
        host = f"[{self.remote_pi_host}]" if ":" in self.remote_pi_host else self.remote_pi_host
        return f"{host}:{self.remote_pi_port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that no log may show."""
        fields = (field.name for field in dataclasses.fields(self) if not field.repr)
        values = [*map(self.__getattribute__, fields), *(os.environ.get(name, "") for name in AWS_SECRETS)]
        return tuple(value for value in values if value)


def _parsed(source: str, key: str, text: str, parse: Parse, *, secret: bool) -> Any:
    """The value of `text`; raises ConfigError naming where it stands and what is allowed, and showing it unless it is a secret."""
    try:
        return parse(text)
    except ValueError as exc:
        shown = "***" if secret else printable(text)
        raise ConfigError(f"{source}: {key}={shown} is not allowed: it takes {exc}") from exc


def _hint(key: str, known: Mapping[str, Any]) -> str:
    """What to write instead of an unknown key."""
    near = difflib.get_close_matches(key.upper(), known, n=1)
    return f"did you mean {near[0]}?" if near else ".env.example names all of them"


def prepare_data_dir(settings: Settings) -> None:
    """Make the data folder if it is missing (2770, group drover where there is one) and let what we write be 0660.

    Raises ConfigError when nothing can be written there.
    """
    os.umask(DATA_UMASK)
    folder = settings.data_dir
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            _hand_to_group(folder)
            folder.chmod(DATA_MODE)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise ConfigError(f"DATA_DIR={folder} cannot be written: {exc.strerror}: choose another folder or change its owner") from exc


def _hand_to_group(folder: Path) -> None:
    """Give `folder` to the group drover if that exists and we may."""
    import grp

    try:
        os.chown(folder, -1, grp.getgrnam(DATA_GROUP).gr_gid)
    except (KeyError, PermissionError):
        return
