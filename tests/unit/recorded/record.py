"""Records what Slurm says, for the tests of launcher/slurm: as root, from the checkout's root,

    python -m tests.unit.recorded.record

It brings up the tests' own cluster and writes tests/unit/recorded/slurm-VERSION/. One file an
answer; one that failed begins with its exit status. Times and folders differ from run to run.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from launcher.slurm import batch, cluster, limits, queue
from tests.cluster.cluster import ACCOUNT, QOS, Cluster
from tests.cluster.user import USER, account

SETTINGS = {
    "EnforcePartLimits": "ALL",
    # more lines of slurm.conf than settings: a value may hold a line break
    "PartitionName": "high Nodes=ALL PriorityTier=10 MaxTime=60 PreemptMode=OFF\n"
    "PartitionName=low Nodes=ALL PriorityTier=1 MaxTime=1-00:00:00\n"
    "PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=30\n"
    "PartitionName=drained Nodes=node1 State=DRAIN MaxTime=10",
}
REFUSED = (
    *("--partition=nope", "--partition=drained", "--nodes=5", "--cpus-per-task=99"),
    *("--partition=high --time=600", "--constraint=nope", "--nodelist=node9", "--exclude=node9"),
    *("--reservation=nope", "--mem=999G", "--account=nope", "--qos=nope", "--gres=gpu:99"),
    *("--gres=nope:1", "--time=nope", "--nope=1", "--nodelist=node[1-2] --nodes=1"),
    *("--gpus-per-task=5 --ntasks=1", "--exclude=node[1-2]", "--mail-type=NOPE", "--mem=nope"),
    *("--signal=NOPE", "--begin=nope", "--licenses=nope", "--nice=-100", "--array=0-99999"),
    *("--cpus-per-task=0", "--ntasks-per-node=9"),
)
# A batch script that goes on after a SIGTERM, for as long as it takes to look at it.
STAYS = "#!/bin/bash\ntrap 'for i in {1..20}; do sleep 0.1; done; exit 0' TERM\nsleep 300 & wait\n"


class Recorder:
    def __init__(self, up: Cluster) -> None:
        self.up = up
        self.version = self.say("sinfo", "--version").split()[-1].rpartition(".")[0]
        self.to = Path(__file__).parent / f"slurm-{self.version}"
        self.to.mkdir(exist_ok=True)
        self.home = up.project("record")

    def say(self, *argv: str, user: str = USER) -> str:
        env = {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}
        done = self.up.run(argv, user=user, env=env, cwd=self.up.home())
        head = f"exit status {done.returncode}\n" if done.returncode else ""
        return head + done.stdout + done.stderr

    def keep(self, name: str, text: str) -> None:
        clean = text.replace(str(self.up.folder), "/cluster")
        clean = re.sub(r" OS=.*?(?= RealMemory=)", " OS=Linux", clean)  # not a cluster's matter
        (self.to / f"{name}.txt").write_text(clean, "utf-8")

    def submit(self, *words: str, script: str = "#!/bin/bash\nexec sleep 60\n") -> str:
        path = self.home / "job.sh"
        path.write_text(script)
        log = f"--output={self.home}/%j.log"
        said = self.say("sbatch", "--parsable", log, *words, str(path)).strip()
        assert said.isdigit(), said
        return said

    def until(self, job_id: str, *states: str) -> None:
        end = time.monotonic() + 120
        while (state := self.squeue(job_id)) not in states:
            assert time.monotonic() < end, (job_id, state, states)
            time.sleep(0.1)

    def squeue(self, job_id: str) -> str:
        words = ("--noheader", "--all", "--states=all", "--jobs", job_id, "--format=%T")
        return self.say("squeue", *words).strip()

    def ending(self, name: str, job_id: str) -> None:
        """Keep what scontrol shows while the batch script handles its SIGTERM."""
        self.until(job_id, "COMPLETING")
        self.keep(f"job-{name}", self.say("scontrol", "--oneliner", "show", "job", job_id))
        self.keep(
            f"nodes-{name}", self.say("scontrol", "--oneliner", "show", "node", "node1,node2")
        )

    def look(self, what: str) -> None:
        """Keep what squeue says of all jobs, in the words that the launcher uses."""
        form = ",".join(f"{field}|" for field in queue._FIELDS)
        who = (f"--user={account(USER).pw_uid}", "--all", "--states=all", "--array")
        said = self.say("squeue", "--noheader", *who, f"--Format={form}")
        self.keep(what, re.sub(r" +\|", "|", said))


def questions(to: Recorder) -> None:
    node = ("NodeName=node1", "AvailableFeatures=avx2,big", "ActiveFeatures=avx2,big")
    to.say("scontrol", "update", *node, user="root")
    words = ("ReservationName=course", "StartTime=now+3600", "Duration=60", "Nodes=node2")
    to.say("scontrol", "create", "reservation", *words, f"Users={USER}", user="root")
    shown = ("sinfo", "--noheader", "--all", "--exact", "--noconvert", f"--format={cluster._NODES}")
    to.keep("sinfo", to.say(*shown))
    to.keep("mpi", to.say("srun", "--mpi=list"))
    to.keep("reservation", to.say("scontrol", "--all", "--oneliner", "show", "reservation"))
    to.say("scontrol", "delete", "ReservationName=course", user="root")
    node = ("NodeName=node1", "AvailableFeatures=avx2", "ActiveFeatures=avx2")
    to.say("scontrol", "update", *node, user="root")
    words = ("show", "associations", f"user={USER}", "format=account,qos")
    to.keep("associations", to.say("sacctmgr", "--noheader", "--parsable2", *words))


def queue_limits(to: Recorder) -> None:
    """Keep limits of all kinds, of a user who has jobs."""
    submit = "MaxSubmitJobs"
    for words in (
        ("user", USER, "set", f"{submit}=10"),
        ("account", ACCOUNT, "set", "GrpSubmitJobs=15"),
        ("qos", QOS, "set", f"{submit}PerUser=5", f"{submit}PerAccount=7", "GrpSubmitJobs=20"),
    ):
        to.say("sacctmgr", "--immediate", "modify", *words, user="root")
    time.sleep(1)
    to.keep("limits-unused", to.say(*limits.question(USER)))
    to.submit("--hold", "--array=0-2")
    to.submit("--hold", "--array=0-1", f"--qos={QOS}")
    to.keep("limits", to.say(*limits.question(USER)))
    to.keep("config", to.say("scontrol", "show", "config"))
    for words in (
        ("user", USER, "set", f"{submit}=-1"),
        ("account", ACCOUNT, "set", "GrpSubmitJobs=-1"),
        ("qos", QOS, "set", f"{submit}PerUser=-1", f"{submit}PerAccount=-1", "GrpSubmitJobs=-1"),
    ):
        to.say("sacctmgr", "--immediate", "modify", *words, user="root")
    to.say("scancel", f"--user={USER}")
    time.sleep(1)


def refusals(to: Recorder) -> None:
    found = {}
    for words in REFUSED:
        given = ("sbatch", "--parsable", "--output=/dev/null", *words.split(), "--wrap=true")
        found[words] = to.say(*given)
        assert found[words].startswith("exit status"), (words, found[words])
    words = ("-i", "modify", "user", USER, "set", "MaxSubmitJobs=1")
    to.say("sacctmgr", *words, user="root")
    time.sleep(1)
    job_id = to.submit()
    found["too many"] = to.say("sbatch", "--parsable", "--output=/dev/null", "--wrap=true")
    to.say("scancel", job_id)
    to.say("sacctmgr", *words[:-1], "MaxSubmitJobs=-1", user="root")
    time.sleep(1)
    (to.to / "sbatch.json").write_text(json.dumps(found, indent=1) + "\n")


def jobs(to: Recorder) -> None:
    """Keep the states of jobs, and the lines of their logs that say why they were ended."""
    for script, state in (("true", "COMPLETED"), ("exit 3", "FAILED"), ("kill -9 $$", "FAILED")):
        to.until(to.submit(script=f"#!/bin/bash\n{script}\n"), state)
    array = to.submit("--array=1-3%1", "--job-name=a|b é")
    held = to.submit("--hold", "--job-name=held")
    running = to.submit("--time=1440")
    to.until(running, "RUNNING")
    job = to.submit(script=STAYS)
    to.until(job, "RUNNING")
    time.sleep(0.5)
    to.say("scancel", job)
    ends = {"cancelled": job}
    to.ending("cancelled", job)
    to.look("squeue-cancelled")
    to.keep("estimate", to.say("sbatch", "--test-only", str(to.home / "job.sh")))
    to.say("scancel", array, held, running)
    for name, words, act in (
        ("requeued", ("--requeue",), lambda job: to.say("scontrol", "requeue", job)),
        ("node-failure", ("--nodes=2", "--requeue"), lambda _: down(to)),
        ("node-failure-for-good", ("--nodes=2", "--no-requeue"), lambda _: down(to)),
        ("preempted", ("--partition=low", "--exclusive", "--requeue"), lambda _: preempt(to)),
    ):
        job = to.submit(*words, script=STAYS)
        to.until(job, "RUNNING")
        time.sleep(0.5)
        act(job)
        to.ending(name, job)
        to.until(job, "PENDING", "NODE_FAIL")
        to.look(f"squeue-{name}")
        ends[name] = job
        to.say("scontrol", "update", "NodeName=node2", "State=RESUME", user="root")
        if name != "node-failure-for-good":
            to.say("scancel", job)
        to.up.wait_idle()
    announced(to)
    late = to.submit("--time=1", script=STAYS)
    to.until(late, "RUNNING")
    ends["time-limit"] = late
    to.ending("time-limit", late)
    to.until(late, "TIMEOUT")
    to.look("squeue-time-limit")
    for name, job_id in ends.items():
        to.keep(f"log-{name}", (to.home / f"{job_id}.log").read_text())
    time.sleep(2)
    words = ("--parsable2", "--allocations", f"--format={queue._SACCT}")
    to.keep("sacct", to.say("sacct", "--noheader", *words))


def announced(to: Recorder) -> None:
    """Keep a job that will be preempted when its partition's time of grace is over."""
    job = to.submit("--partition=grace", "--exclusive", "--nodes=2", script=STAYS)
    to.until(job, "RUNNING")
    preempt(to)
    end = time.monotonic() + 60
    while "PreemptTime=None" in (shown := to.say("scontrol", "-o", "show", "job", job)):
        assert time.monotonic() < end, shown
        time.sleep(0.1)
    to.keep("job-preemption-announced", shown)
    to.say("scancel", f"--user={USER}")
    to.up.wait_idle()


def down(to: Recorder) -> None:
    to.say("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test", user="root")


def preempt(to: Recorder) -> None:
    to.submit("--partition=high", "--nodes=2", "--exclusive", script="#!/bin/bash\nsleep 1\n")


def silence(to: Recorder) -> None:
    """Keep what the programs say when nobody answers."""
    to.up.stop_controller()
    for name, words in (
        ("squeue", ("squeue", "--noheader")),
        ("sinfo", ("sinfo", "--noheader")),
        ("sbatch", ("sbatch", "--wrap=true")),
        ("scontrol", ("scontrol", "show", "job", "1")),
    ):
        to.keep(f"silent-{name}", to.say(*words))
    to.up.start_controller()


def main() -> None:
    with Cluster(accounting="dbd", settings=SETTINGS) as up:
        to = Recorder(up)
        questions(to)
        queue_limits(to)
        refusals(to)
        jobs(to)
        silence(to)
    with Cluster() as up:
        to = Recorder(up)
        to.keep("sacct-disabled", to.say("sacct", "--noheader"))
        to.keep("associations-disabled", to.say("sacctmgr", "show", "associations"))
        parameters = {"job-name": "x", "output": batch.literal("/dev/null")}
        (to.to / "batch.txt").write_text(batch.text(parameters, "exec true", "/tmp"))


if __name__ == "__main__":
    main()
