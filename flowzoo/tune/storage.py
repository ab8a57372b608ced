"""Where studies are kept: a SQLite file, a database server, or a journal; and which trials a worker may take over."""

from __future__ import annotations

import errno
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo.config import ConfigError
from flowzoo.storage import DISK

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from sqlalchemy.engine import URL

TIMEOUT = 60  # seconds that a writer waits for the others of a SQLite file
RETRIES = 3  # how often a trial that the storage lost sight of is begun again
TRIES = 20  # how often at most the tables are made, while others make them too
KINDS = "sqlite:///FILE, postgresql+psycopg://USER@HOST/DATABASE or journal:FILE"


@dataclass(frozen=True)
class Opened:
    """A storage that answers.

    Args:
        storage: of Optuna.
        url: as text that ``optuna-dashboard`` takes, without a password; of a journal its file.
        leases: the folder where workers hold their trials: beside the file for all that open it, in the run directory
            for a server.
        home: of this folder, the same for all that see it.

    A context manager, which closes the connections.
    """

    storage: BaseStorage
    url: str
    leases: Path
    home: str
    close: Callable[[], None]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_storage(url: str | None, folder: Path, *, heartbeat: int = 15) -> Opened:
    """Open or make a storage.

    Args:
        url: see ``TuneConfig.storage``; None for ``study.db`` in the folder.
        folder: the run directory.
        heartbeat: seconds between signs of life; a trial without any for eight times as long is begun again.

    Raises:
        ConfigError: for a URL that says nothing, a server that does not answer, a package that is not installed, or a
            file that is no storage; in one line.
    """
    from optuna.storages import get_storage

    folder.mkdir(parents=True, exist_ok=True)
    text = url or f"sqlite:///{(folder / 'study.db').absolute()}"
    with _quiet():
        if text.startswith("journal:"):
            file = Path(re.sub("^journal:(//(?=/))?", "", text)).expanduser().absolute()
            return _opened(_journal(file), str(file), file.with_name(f"{file.name}.leases"))
        database, shown, found = _database(text, heartbeat)

    def close() -> None:
        database.remove_session()
        database.engine.dispose()

    leases = folder / "leases" if found is None else found.with_name(f"{found.name}.leases")
    return _opened(get_storage(database), shown, leases, close)


def _opened(storage: BaseStorage, url: str, leases: Path, close: Callable[[], None] = lambda: None) -> Opened:
    # A folder with a name of its own in it: `mkdir` is atomic everywhere, and so is the renaming of a whole folder to a
    # name that is not there or of a folder that is empty.
    own = leases / f".{uuid.uuid4().hex}.tmp"
    try:
        (own / uuid.uuid4().hex).mkdir(parents=True)
    except OSError as error:
        close()
        if error.errno in DISK and error.errno != errno.EROFS:
            raise
        raise ConfigError(f"tune.storage: workers write into {leases}, and cannot ({error.strerror})") from None
    try:
        own.rename(leases / ".home")
    except OSError:  # another was first
        shutil.rmtree(own)
    return Opened(storage, url, leases, next((leases / ".home").iterdir()).name, close)


def _journal(file: Path) -> BaseStorage:
    from optuna.storages import JournalStorage

    from flowzoo.tune.journal import backend

    if not file.parent.is_dir():
        raise ConfigError(f"journal:{file}: there is no folder {file.parent}; make it, or give another file")
    try:
        return JournalStorage(backend(file))
    except OSError as error:
        raise ConfigError(f"journal:{file}: cannot be used ({error.strerror})") from None
    except Exception as error:  # of whatever kind Optuna's reader stumbles with
        why = f"{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(
            f"journal:{file}: it is no journal of Optuna, or a line of it is damaged ({why}); give another file"
        ) from None


def _database(text: str, heartbeat: int) -> tuple[RDBStorage, str, Path | None]:
    """The storage, its URL without a password, and its file if it is one."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(f"tune.storage: expected {KINDS}; got '{text}'") from None
    url, file, options = _engine(url)
    shown = url.render_as_string(hide_password=True)

    def make() -> RDBStorage:
        storage = RDBStorage.__new__(RDBStorage)  # its connections are to be closed, should it not come into being
        try:
            # The heartbeat and the callback are public and called experimental.
            RDBStorage.__init__(
                storage,
                url.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                grace_period=8 * heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
            )
        except BaseException:
            if hasattr(storage, "engine"):
                storage.engine.dispose()
            raise
        return storage

    try:
        storage = _patiently(make)
        if file is not None:
            with storage.engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            if found != "ok":
                raise ConfigError(f"tune.storage: '{shown}' is damaged ({_one_line(str(found))}); restore or delete it")
        return storage, shown, file
    except NoSuchModuleError:
        raise ConfigError(f"tune.storage: expected {KINDS}; got '{shown}'") from None
    except ImportError as error:
        package = getattr(error, "name", None) or getattr(error.__cause__, "name", None) or "its driver"
        hint = "pip install flowzoo[postgres], and give postgresql+psycopg://..."
        hint = hint if url.get_backend_name() == "postgresql" else f"install it, or give {KINDS}"
        raise ConfigError(f"tune.storage: '{shown}' needs {package}, which is not installed: {hint}") from None
    except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise ConfigError(f"tune.storage: '{shown}' cannot be opened ({_one_line(error)})") from None


def _engine(url: URL) -> tuple[URL, Path | None, dict[str, Any]]:
    """The URL with an absolute path, its file if it is one, and options of the connections."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ConfigError("tune.storage: a SQLite storage must be a file, sqlite:///FILE; nobody can join another")
        file = Path(str(url.database)).expanduser().absolute()
        if not file.parent.is_dir():
            raise ConfigError(f"tune.storage: there is no folder {file.parent}; make it, or give another file")
        return url.set(database=str(file)), file, {"connect_args": {"timeout": TIMEOUT}}
    options: dict[str, Any] = {"pool_pre_ping": True}
    if backend == "postgresql":
        options["connect_args"] = {"connect_timeout": 10}
    return url, None, options


def _patiently(make: Callable[[], RDBStorage]) -> RDBStorage:
    """Make the tables, which several workers may do at once: all but one find a part of them there."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for attempt in range(1, TRIES):
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            met = re.search("already exists|duplicate key|unique constraint|locked", str(error), re.IGNORECASE)
            if met is None:
                raise
            time.sleep(0.05 * attempt)
    return make()


def _one_line(error: BaseException | str) -> str:
    """What went wrong, without the advice that SQLAlchemy adds for programmers."""
    cause = getattr(error, "orig", None) or error
    return re.sub(r"\s+", " ", str(cause)).strip()[:300] or type(cause).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside the block Optuna does not call the heartbeats experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
