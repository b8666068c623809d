"""A real one-node SLURM on this machine, for the length of a ``with`` block. Needs root and the Debian packages
``slurm-wlm`` and ``munge``; nothing of it is left running.

Accounting is off, so ``sacct`` fails and submitit would wait for minutes; a replacement that asks ``scontrol`` stands
first in the PATH of the submitting process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")

CONFIG = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation={state}
SlurmctldPidFile={state}/slurmctld.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdSpoolDir={spool}
SlurmdPidFile={spool}/slurmd.pid
SlurmdLogFile={spool}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MaxArraySize=1001
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=60
SlurmctldTimeout=30
SlurmdTimeout=30
NodeName={host} NodeAddr=127.0.0.1 {hardware} State=UNKNOWN
PartitionName=local Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""

SACCT = """#!/bin/sh
# sacct -o JobID,State,NodeList --parsable2 -j ID [-j ID ...], answered by scontrol
echo 'JobID|State|NodeList'
end='.*JobState=\\([A-Z]*\\) .* NodeList=\\([^ ]*\\).*'
while [ $# -gt 0 ]; do
  if [ "$1" = "-j" ]; then shift; for id in $(echo "$1" | tr , ' '); do
    scontrol -o show job "$id" 2>/dev/null | sed -n \\
      -e "s/.*ArrayJobId=\\([0-9]*\\) ArrayTaskId=\\([0-9]*\\) $end/\\1_\\2|\\3|\\4/p" \\
      -e t -e "s/JobId=\\([0-9]*\\) $end/\\1|\\2|\\3/p"
  done; fi
  shift
done
"""


def unavailable() -> str:
    """Why there can be no SLURM here; empty when there can."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "starting SLURM needs root"


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Starts the daemons; gives the environment for processes that submit.

    Raises:
        RuntimeError: the node is not idle after half a minute.
    """
    host = socket.gethostname().partition(".")[0]
    state, spool, tools = folder / "state", folder / "spool", folder / "bin"
    for path in (state, spool, tools):
        path.mkdir(parents=True)
    for path in [folder, *folder.parents][:-1]:
        path.chmod(path.stat().st_mode | 0o011)  # the controller runs as slurm
    shutil.chown(state, "slurm")
    described = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True).stdout
    hardware = " ".join(re.findall(r"(?:CPUs|Boards|SocketsPerBoard|CoresPerSocket|ThreadsPerCore)=\d+", described))
    memory = re.search(r"RealMemory=(\d+)", described)
    hardware += f" RealMemory={max(1000, int(memory.group(1)) - 3000 if memory else 1000)}"
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, state=state, spool=spool, hardware=hardware))
    (tools / "sacct").write_text(SACCT)
    (tools / "sacct").chmod(0o755)
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    started: list[Path] = []
    try:
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "munge", "munge")
        own_munge = not (run / "munged.pid").exists()
        if own_munge:
            as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--init-groups"]
            subprocess.run([*as_munge, shutil.which("munged") or "munged"], check=True, capture_output=True)
            started.append(run / "munged.pid")
        subprocess.run(["slurmctld"], env=environment, check=True, capture_output=True)
        started.append(state / "slurmctld.pid")
        subprocess.run(["slurmd", "-N", host], env=environment, check=True, capture_output=True)
        started.append(spool / "slurmd.pid")
        _wait_idle(environment)
        yield environment
    finally:
        for file in reversed(started):
            _stop(file)


def _wait_idle(environment: dict[str, str]) -> None:
    for _ in range(60):
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True).stdout
        if shown.strip() == "idle":
            return
        time.sleep(0.5)
    raise RuntimeError(f"the SLURM node is not idle: {shown}")


def _stop(pid_file: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(0.1)
