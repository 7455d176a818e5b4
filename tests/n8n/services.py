"""PostgreSQL and Redis for n8n's queue mode: Debian's programs as child processes, on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from .processes import ChildProcess, free_port, poll

READY_LIMIT = 60.0
#: The account that runs PostgreSQL where the tests run as root, which it refuses.
ACCOUNT = "postgres"


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program else None


def missing() -> list[str]:
    """Return the programs that queue mode needs and this machine lacks."""
    lacking = [] if postgres_programs() else ["postgresql"]
    return lacking if shutil.which("redis-server") else [*lacking, "redis-server"]


class Postgres:
    """A PostgreSQL, running, with the user "n8n", who needs no password."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        # Only its owner can read the tests' own folder.
        self._data = Path(tempfile.mkdtemp(prefix="n8nrunner-postgres-"))
        self._process: ChildProcess | None = None
        try:
            self._start(folder)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        programs = postgres_programs()
        assert programs is not None
        as_account: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._data, ACCOUNT)
            as_account = ["runuser", "-u", ACCOUNT, "--"]
        cluster = str(self._data / "cluster")
        initdb = [str(programs / "initdb"), "-A", "trust", "-U", "n8n", "--no-sync", "-D", cluster]
        subprocess.run([*as_account, *initdb], check=True, stdout=subprocess.DEVNULL, cwd=self._data)
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        options += ["-c", f"unix_socket_directories={self._data}"]
        command = [*as_account, str(programs / "postgres"), "-D", cluster, *options]
        self._process = ChildProcess(
            "postgres", command, dict(os.environ), folder / "postgres.log", cwd=self._data
        )
        poll(lambda: _listens(self.port) or None, "postgres listens", READY_LIMIT)

    def create_database(self, name: str) -> None:
        """Creates a database, as soon as it takes clients: it listens before."""
        poll(lambda: self._sql(f"create database {name}") or None, "a database", READY_LIMIT, 0.2)

    def end_connections(self, database: str) -> None:
        """Ends all connections to a database, as a restart of the server would."""
        sql = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
        assert self._sql(sql)

    def _sql(self, statement: str) -> bool:
        psql = [
            "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "n8n",
            "-d",
            "postgres",
            "-c",
            statement,
        ]
        done = subprocess.run(psql, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        return done.returncode == 0 or b"already exists" in done.stderr

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._data, ignore_errors=True)


class Services:
    """The services of queue mode. Every n8n of the queue needs `variables`."""

    def __init__(self, folder: Path) -> None:
        self._redis_port = free_port()
        self._redis: ChildProcess | None = None
        self._postgres = Postgres(folder)
        try:
            command = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", ""]
            self._redis = ChildProcess("redis", command, dict(os.environ), folder / "redis.log", cwd=folder)
            poll(lambda: _listens(self._redis_port) or None, "redis listens", READY_LIMIT)
            self._postgres.create_database("n8n")
        except BaseException:
            self.close()
            raise

    @property
    def variables(self) -> dict[str, str]:
        return {
            "EXECUTIONS_MODE": "queue",
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": "127.0.0.1",
            "DB_POSTGRESDB_PORT": str(self._postgres.port),
            "DB_POSTGRESDB_DATABASE": "n8n",
            "DB_POSTGRESDB_USER": "n8n",
            "DB_POSTGRESDB_PASSWORD": "none",
            "QUEUE_BULL_REDIS_HOST": "127.0.0.1",
            "QUEUE_BULL_REDIS_PORT": str(self._redis_port),
            "N8N_ENCRYPTION_KEY": "key-of-the-tests",
        }

    def close(self) -> None:
        if self._redis is not None:
            self._redis.kill()
        self._postgres.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
