"""A real Slurm cluster of one node, in processes of this test that end with it.

The daemons see a `/run` and a home of their own (a mount namespace), and the node's jobs are in a process namespace of
their own, so nothing is shared with a Slurm that this machine may have, and nothing outlives the test.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "slurmrestd", "sshd")
DEBIAN = "slurm-wlm slurmdbd slurmrestd slurm-wlm-jwt-plugin slurm-wlm-mysql-plugin munge mariadb-server openssh-server"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SLURM_CONF = """\
ClusterName=emu
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/jwt.key
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
KillWait=2
MinJobAge={min_job_age}
SchedulerParameters=sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoreFlags=job_comment
AccountingStorageEnforce=limits
NodeName=localhost NodeAddr=127.0.0.1 CPUs=64 RealMemory=100 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=ALL Default=NO State=UP AllowGroups=nogroup
"""
_DBD_CONF = """\
AuthType=auth/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/jwt.key
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
DebugLevel=info
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
_GRANTS = (
    "create database slurm_acct; create user 'slurm'@'localhost' identified by 'slurm'; "
    "create user 'slurm'@'%' identified by 'slurm'; grant all on slurm_acct.* to 'slurm'@'%'; "
    "grant all on slurm_acct.* to 'slurm'@'localhost'"
)


def lacking() -> str:
    """Why there can be no cluster here; empty if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"no {missing[0]}; on Debian: apt-get install --no-install-recommends {DEBIAN}"
    if os.getuid() != 0:
        return "a Slurm cluster of the test's own needs root"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        return "a Slurm cluster of the test's own needs leave to make namespaces (CAP_SYS_ADMIN)"
    return ""


@dataclass
class Cluster:
    """A running cluster: where it is, and how to ask it."""

    folder: Path
    start: Callable[..., Any]
    free_port: Callable[[], int]
    min_job_age: int = 300
    ports: dict[str, int] = field(default_factory=dict)
    daemons: dict[str, Any] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _PATH}

    def up(self) -> None:
        self.folder.chmod(0o755)
        for name in ("run/munge", "run/sshd", "home", "python", "state", "spool", "db", "work", "xdg"):
            (self.folder / name).mkdir(parents=True)
        self.ports = {name: self.free_port() for name in ("ctld", "slurmd", "dbd", "mysql", "rest", "ssh")}
        places: Mapping[str, Any] = {"folder": self.folder, "min_job_age": self.min_job_age, **self.ports}
        self._write("slurm.conf", _SLURM_CONF.format_map(places).encode(), 0o644)
        self._write("slurmdbd.conf", _DBD_CONF.format_map(places).encode(), 0o600)
        self._write("munge.key", secrets.token_bytes(1024), 0o400)
        self._write("jwt.key", secrets.token_bytes(32), 0o600)
        self._start_munge()
        self._start_database()
        self._start_slurm()
        self._start_ssh()
        self.start_rest()

    def _start_munge(self) -> None:
        socket = self.folder / "run/munge/munge.socket.2"
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
            f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munge.seed",
            "--pid-file=/run/munge/pid", ready=socket.exists,
        )  # fmt: skip

    def _start_database(self) -> None:
        data, socket = self.folder / "db", self.folder / "db.sock"
        self.run(
            "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
            "--auth-root-authentication-method=normal", "--skip-test-db",
        )  # fmt: skip
        ask = ("mariadb", "--no-defaults", "-S", str(socket), "-uroot", "-e")
        self._daemon(
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket}",
            f"--port={self.ports['mysql']}", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", f"--pid-file={self.folder}/db.pid",
            ready=lambda: self.succeeds(*ask, "select 1"),
        )  # fmt: skip
        self.run(*ask, _GRANTS)

    def _start_slurm(self) -> None:
        self._daemon("slurmdbd", "-D", ready=lambda: self.succeeds("sacctmgr", "-i", "add", "cluster", "emu"))
        self.start_controller()
        self._daemon("slurmd", "-D", "-N", "localhost", own_processes=True, ready=self.is_idle)

    def start_controller(self, *arguments: str) -> None:
        self._daemon("slurmctld", "-D", *arguments, ready=lambda: self.succeeds("scontrol", "ping"))

    def forget_jobs(self) -> None:
        """Have the controller forget every job, as it does five minutes after a job's end."""
        self.stop("slurmctld")
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()
        self.start_controller("-c")
        self.daemons["slurmctld"].wait_for(self.is_idle)

    def _start_ssh(self) -> None:
        for name in ("host_key", "other_host_key", "client_key", "wrong_key"):
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        shutil.copy(self.folder / "client_key.pub", self.folder / "authorized_keys")
        for name, key in (("known_hosts", "host_key"), ("wrong_hosts", "other_host_key")):
            public = (self.folder / f"{key}.pub").read_text()
            (self.folder / name).write_text(f"[127.0.0.1]:{self.ports['ssh']} {public}")
        self.start_ssh()

    def start_ssh(self, *arguments: str) -> None:
        self._daemon(
            "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(self.ports["ssh"]),
            "-h", str(self.folder / "host_key"), "-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none",
            "-o", f"AuthorizedKeysFile={self.folder}/authorized_keys", "-o", "StrictModes=no",
            "-o", "PermitRootLogin=prohibit-password", "-o", "PasswordAuthentication=no", "-o", "UsePAM=no",
            "-o", f"SetEnv=SLURM_CONF={self.folder}/slurm.conf XDG_STATE_HOME={self.folder}/xdg",
            *arguments, port=self.ports["ssh"],
        )  # fmt: skip

    def stop_ssh(self) -> None:
        """Stop the SSH server and break the connections that it has: each has a process of its own."""
        daemon = self.daemons["sshd"].pid
        served = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
        self.stop("sshd")
        for pid in served:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def start_rest(self) -> None:
        self._daemon(
            "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "slurmrestd", "-a", "rest_auth/jwt",
            f"127.0.0.1:{self.ports['rest']}", port=self.ports["rest"], env={"SLURM_JWT": "daemon"},
        )  # fmt: skip

    def token(self, seconds: int = 3600) -> str:
        """A JWT for root."""
        return self.run("scontrol", "token", f"lifespan={seconds}").strip().removeprefix("SLURM_JWT=")

    def is_idle(self) -> bool:
        return "idle" in self.run("sinfo", "-h", "-o", "%T", check=False)

    def run(self, *argv: str, check: bool = True) -> str:
        """What a program of the cluster prints."""
        done = subprocess.run(
            self._inside(argv), env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def succeeds(self, *argv: str) -> bool:
        return (
            subprocess.run(
                self._inside(argv), env={**os.environ, **self.env}, capture_output=True, check=False
            ).returncode
            == 0
        )

    def stop(self, name: str) -> None:
        """Stop one daemon; start it again with its own method."""
        self.daemons.pop(name).stop()

    def _daemon(
        self,
        program: str,
        *arguments: str,
        ready: Callable[[], bool] | None = None,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        own_processes: bool = False,
    ) -> None:
        argv = self._inside((program, *arguments), own_processes=own_processes)
        process = self.start(argv, port=port, env={**self.env, **(env or {})})
        if ready is not None:
            process.wait_for(ready)
        self.daemons[Path(program).name if program != "setpriv" else "slurmrestd"] = process

    def _inside(self, argv: Sequence[str], *, own_processes: bool = False) -> list[str]:
        """The command in the cluster's view of this machine."""
        apart = ("--pid", "--fork", "--kill-child", "--mount-proc") if own_processes else ()
        home = Path(pwd.getpwuid(0).pw_dir)  # an empty one: what its .bashrc does is no part of the test
        mounts = [f"mount --bind {self.folder}/run /run"]
        kept = Path(sys.base_prefix)  # but functions run with this Python
        if kept.is_relative_to(home):
            mounts += [
                f"mount --bind {kept} {self.folder}/python",
                f"mkdir -p {self.folder}/home/{kept.relative_to(home)}",
            ]
        mounts.append(f"mount --bind {self.folder}/home {home}")
        if kept.is_relative_to(home):
            mounts.append(f"mount --bind {self.folder}/python {kept}")
        enter = " && ".join([*mounts, 'exec "$@"'])
        return ["unshare", "--mount", *apart, "sh", "-c", enter, "sh", *argv]

    def _write(self, name: str, content: bytes, mode: int) -> None:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(mode)


if __name__ == "__main__":  # python cluster.py FOLDER: a cluster to try things by hand, until Ctrl-C
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from tests.backends import conftest as shared

    where = Path(sys.argv[1]).absolute()
    where.mkdir(parents=True)

    def _by_hand(argv: Sequence[str], *, port: int = 0, env: Mapping[str, str] | None = None) -> Any:
        process = shared.Process(argv, {**os.environ, **(env or {})}, where / f"{len(list(where.glob('*.out')))}.out")
        if port:
            process.wait_for(lambda: shared.answers(port))
        return process

    began = time.monotonic()

    def _port() -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    cluster = Cluster(where, _by_hand, _port)
    try:
        cluster.up()
        print(f"up after {time.monotonic() - began:.1f} s", cluster.ports, flush=True)
        while True:
            time.sleep(1)
    finally:
        for one in cluster.daemons.values():
            one.stop()
