"""PostgreSQL and Redis for n8n's queue mode: Debian's programs as child processes, on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, Optional

from .processes import ChildProcess, free_port, poll

READY_LIMIT = 60.0
#: The account that runs PostgreSQL where the tests run as root, which it refuses.
ACCOUNT = "postgres"


def postgres_programs() -> Optional[Path]:
    """The folder with `initdb` and `postgres`; None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program else None


def missing() -> List[str]:
    """What queue mode needs and this machine lacks."""
    lacking = [] if postgres_programs() else ["postgresql"]
    return lacking if shutil.which("redis-server") else [*lacking, "redis-server"]


class Services:
    """Both, running. `variables` are what every n8n of the queue is to be told."""

    def __init__(self, folder: Path) -> None:
        self._postgres_port, self._redis_port = free_port(), free_port()
        # Below the tests' own folder, nobody but its owner may look.
        self._data = Path(tempfile.mkdtemp(prefix="n8nrunner-postgres-"))
        self._processes: List[ChildProcess] = []
        try:
            self._start(folder)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        programs = postgres_programs()
        assert programs is not None
        as_account: List[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._data, ACCOUNT)
            as_account = ["runuser", "-u", ACCOUNT, "--"]
        cluster = self._data / "cluster"
        subprocess.run(
            [
                *as_account,
                str(programs / "initdb"),
                "-A",
                "trust",
                "-U",
                "n8n",
                "--no-sync",
                "-D",
                str(cluster),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._data,
        )
        options = ["-p", str(self._postgres_port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        options += ["-c", f"unix_socket_directories={self._data}"]
        command = [*as_account, str(programs / "postgres"), "-D", str(cluster), *options]
        self._run("postgres", command, folder)
        redis = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", ""]
        self._run("redis", redis, folder)
        for name, port in (("postgres", self._postgres_port), ("redis", self._redis_port)):
            poll(lambda port=port: _listens(port) or None, f"{name} listens", READY_LIMIT)
        # It listens before it takes clients.
        psql = ["psql", "-h", "127.0.0.1", "-p", str(self._postgres_port), "-U", "n8n", "-d", "postgres"]
        poll(lambda: _succeeds([*psql, "-c", "create database n8n"]) or None, "a database", READY_LIMIT, 0.2)

    def _run(self, name: str, command: List[str], folder: Path) -> None:
        log = folder / f"{name}.log"
        self._processes.append(ChildProcess(name, command, dict(os.environ), log, cwd=self._data))

    @property
    def variables(self) -> Dict[str, str]:
        return {
            "EXECUTIONS_MODE": "queue",
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": "127.0.0.1",
            "DB_POSTGRESDB_PORT": str(self._postgres_port),
            "DB_POSTGRESDB_DATABASE": "n8n",
            "DB_POSTGRESDB_USER": "n8n",
            "DB_POSTGRESDB_PASSWORD": "none",
            "QUEUE_BULL_REDIS_HOST": "127.0.0.1",
            "QUEUE_BULL_REDIS_PORT": str(self._redis_port),
            "N8N_ENCRYPTION_KEY": "key-of-the-tests",
        }

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        shutil.rmtree(self._data, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _succeeds(command: List[str]) -> bool:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    return done.returncode == 0 or b"already exists" in done.stderr
