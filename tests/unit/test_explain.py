"""One sentence and one override, out of what Python, torch, Horovod, MPI and Slurm really say.

What Python says is made here, by running it. What others say was recorded: from torch 2.13.0,
Horovod 0.28.1, Open MPI 5.0.11 and Slurm 22.05 in the environments and on the cluster of these
tests. What takes a GPU, a cgroup or an older system was not recorded: it is as public reports show
it, or as it is known (GLIBC, ECC, kernel image, device-side assert, watchdog, the oom_kill line of
newer versions of Slurm, its line for the time limit).
"""

# What was recorded stands here as it was.
# ruff: noqa: E501, ISC004, SIM905

from __future__ import annotations

import functools
import resource
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher import app, config
from launcher.cluster import Cluster, NodeGroup
from launcher.explain import Evidence, Explanation, explain
from launcher.job import RunRecord, RunState

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Project

ID = "261123-080000-abcd"
SLURM = ("compute=slurm", "dist=mpi", "nodes=2", "procs_per_node=2")
TORCH = "/home/me/.venv/lib/python3.11/site-packages/torch"


@functools.lru_cache
def job_of(overrides: tuple[str, ...]) -> Any:
    request = app.Request(overrides=overrides, values={"entry_script": "train.py"})
    return config.resolve(app.compose(request), overrides)[0]


def evidence(*overrides: str, given: tuple[str, ...] = SLURM, **values: Any) -> Evidence:
    job = job_of((*given, *overrides))
    record = RunRecord(
        id=ID,
        name="train",
        created=0.0,
        user="me",
        host="login",
        compute=job.compute.kind,
        dist=job.dist.kind,
        entry=job.entry,
        nodes=job.resources.nodes,
        procs_per_node=job.resources.procs_per_node,
        grace_s=10.0,
        time_s=job.resources.time_s,
        git_dir="",
        prefix="",
        commit="",
        secrets=(),
        overrides=overrides,
    )
    values = {"state": RunState.FAILED, "nodes": "node[1-2]", **values}
    for name in ("last_lines", "launch_lines"):
        if isinstance(values.get(name), str):
            values[name] = tuple(values[name].splitlines())
    return Evidence(record=record, config=job.config, **values)


def explained(*overrides: str, given: tuple[str, ...] = SLURM, **values: Any) -> Explanation:
    """Explain a run; the override must be one that the same run can be launched with."""
    found = explain(evidence(*overrides, given=given, **values))
    if found.override:
        job_of((*given, *overrides, found.override))
    assert "\n" not in found.sentence
    return found


def rank(status: int = 0, *, number: int = 3, **more: Any) -> dict[str, Any]:
    how = {"status": status} if status else {}
    return {"rank": number, "host": "node2", **how, **more}


def pending(word: str, *overrides: str, **values: Any) -> Explanation:
    return explained(*overrides, state=RunState.PENDING, scheduler_reason=word, **values)


@pytest.fixture(autouse=True)
def _in_a_project(project: Project) -> None:
    pass


# -- what Python says, by running it ---------------------------------------------------------


def run_python(folder: Path, source: str, *args: str, **how: Any) -> dict[str, Any]:
    """Run a script where a run has its code; return what is known of the rank."""
    code = folder / "runs" / ID / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "train.py").write_text(source)
    words = (sys.executable, str(code / "train.py"), *args)
    done = subprocess.run(words, cwd=code, capture_output=True, text=True, check=False, **how)
    assert done.returncode
    ended = {"status": done.returncode} if done.returncode > 0 else {"signal": -done.returncode}
    lines = tuple((done.stdout + done.stderr).splitlines())
    return {"failed": rank(**ended), "last_lines": lines}


def test_an_exception_is_named_with_its_line(tmp_path: Path) -> None:
    said = run_python(tmp_path, "\n\ndef f():\n    raise ValueError('bad lr')\n\n\nf()\n")
    found = explained(**said)
    assert found.sentence == "rank 3 on node2 failed first: ValueError: bad lr (train.py, line 4)"
    assert found.override == ""


def test_the_line_is_the_users_own(tmp_path: Path) -> None:
    said = run_python(tmp_path, "import json\n\njson.loads('{')\n")
    assert "JSONDecodeError: " in explained(**said).sentence
    assert explained(**said).sentence.endswith("(train.py, line 3)")


def test_a_chain_ends_with_what_was_raised_last(tmp_path: Path) -> None:
    source = "try:\n    {}['a']\nexcept KeyError as e:\n    raise RuntimeError('no a') from e\n"
    sentence = explained(**run_python(tmp_path, source)).sentence
    assert sentence.endswith("RuntimeError: no a (train.py, line 4)")


def test_an_error_of_syntax_has_its_line(tmp_path: Path) -> None:
    sentence = explained(**run_python(tmp_path, "x = 1\nif x\n")).sentence
    assert sentence.endswith("SyntaxError: expected ':' (train.py, line 2)")


def test_an_objects_farewell_is_not_the_cause(tmp_path: Path) -> None:
    source = (
        "class A:\n    def __del__(self):\n        raise OSError('gone')\n\n\n"
        "a = A()\nraise ValueError('bad lr')\n"
    )
    said = run_python(tmp_path, source)
    assert any("Exception ignored in" in line for line in said["last_lines"])
    assert "ValueError: bad lr (train.py, line 7)" in explained(**said).sentence


def test_a_traceback_whose_beginning_is_cut_off(tmp_path: Path) -> None:
    said = run_python(tmp_path, "def f(n):\n    return f(n - 1) if n else 1 / 0\n\n\nf(1)\n")
    lines = said["last_lines"]
    said["last_lines"] = lines[max(i for i, line in enumerate(lines) if "  File " in line) :]
    assert not any("Traceback" in line for line in said["last_lines"])
    assert "ZeroDivisionError: division by zero (train.py, line 2)" in explained(**said).sentence


def test_one_process_is_called_the_script(tmp_path: Path) -> None:
    said = run_python(tmp_path, "raise ValueError('bad lr')\n")
    said["failed"]["rank"] = 0
    here = explained(given=("compute=local",), **said)
    assert here.sentence == "the script failed: ValueError: bad lr (train.py, line 1)"
    there = explained(given=("compute=slurm",), **said)
    assert there.sentence.startswith("the script on node2 failed: ValueError")


def test_a_message_at_the_end_without_an_exception(tmp_path: Path) -> None:
    said = run_python(tmp_path, "import sys\n\nsys.exit('no data for this fold')\n")
    assert explained(**said).sentence == (
        "rank 3 on node2 failed first: exit status 1; its last line: no data for this fold"
    )


@pytest.mark.parametrize(
    ("name", "given", "override"),
    [
        ("einops_of_nobody", "[]", "environment.pip_packages=[einops_of_nobody]"),
        ("sklearn.svm", "[]", "environment.pip_packages=[scikit-learn]"),
        ("cv2", "[einops]", "environment.pip_packages=[einops,opencv-python-headless]"),
        (
            "cv2",
            "['pandas>=2,<3']",
            'environment.pip_packages=["pandas>=2,<3",opencv-python-headless]',
        ),
        ("google.protobuf", "[]", "environment.pip_packages=[protobuf]"),
        ("google.cloud.storage", "[]", "environment.pip_packages=[google-cloud-storage]"),
        ("ruamel.yaml", "[]", "environment.pip_packages=[ruamel.yaml]"),
        ("bs4", "[BeautifulSoup4]", "environment.provision=venv"),  # it is asked for
        ("torch", "[]", "environment.provision=venv"),
        ("horovod.torch", "[]", "environment.provision=venv"),
        ("utils", "[]", ""),  # a stranger's project of that name is not what the user means
        ("models.resnet", "[]", ""),
    ],
)
def test_a_module_that_is_not_there(tmp_path: Path, name: str, given: str, override: str) -> None:
    said = run_python(tmp_path, f"import {name}\n")
    found = explained(f"environment.pip_packages={given}", **said)
    assert found.override == override
    assert f"found no module {name.partition('.')[0]}" in found.sentence
    assert "(train.py, line 1)" in found.sentence


def test_a_part_that_an_installed_package_does_not_have(tmp_path: Path) -> None:
    found = explained(**run_python(tmp_path, "import packaging.nosuch\n"))
    assert found.sentence.endswith(
        "found no module packaging.nosuch (train.py, line 1): the packaging that is installed is "
        "another version, or has no such part"
    )
    assert found.override == ""


def test_a_part_of_a_namespace_is_a_package_of_its_own(tmp_path: Path) -> None:
    source = "import sys, types\n\nsys.modules['google'] = types.ModuleType('google')\n"
    source += "sys.modules['google'].__path__ = []\nfrom google.protobuf import message\n"
    found = explained(**run_python(tmp_path, source))
    assert "found no module google.protobuf (train.py, line 5)" in found.sentence
    assert found.override == "environment.pip_packages=[protobuf]"
    found = explained(**run_python(tmp_path, "from google.cloud import storage\n"))
    assert found.override == "environment.pip_packages=[google-cloud-storage]"


def test_modules_that_no_package_brings(tmp_path: Path) -> None:
    (tmp_path / "runs" / ID / "code").mkdir(parents=True)
    (tmp_path / "runs" / ID / "code" / "csv.py").write_text("")
    hidden = explained(**run_python(tmp_path, "import csv.reader\n"))
    assert hidden == Explanation(
        sentence="rank 3 on node2 found no module csv.reader (train.py, line 1): a file csv.py "
        "hides the package csv"
    )
    absent = "import sys\nsys.modules['_lzma'] = None\nraise ModuleNotFoundError(\"No module named "
    said = run_python(tmp_path, absent + "'_lzma'\")\n")
    assert "this Python was built without it" in explained(**said).sentence


def test_horovod_comes_with_mpi(tmp_path: Path) -> None:
    said = run_python(tmp_path, "import horovod.torch\n")
    assert explained(given=("compute=slurm",), **said).override == "dist=mpi"


def test_a_name_that_a_module_does_not_have(tmp_path: Path) -> None:
    found = explained(**run_python(tmp_path, "from json import lods\n"))
    assert (
        "could not import a module (train.py, line 1): cannot import name 'lods'" in found.sentence
    )
    assert found.override == ""


def test_a_warning_that_names_a_module_is_no_error() -> None:
    lines = (
        f"{TORCH}/_subclasses/functional_tensor.py:368: UserWarning: Failed to initialize NumPy: No "
        "module named 'numpy'\nTraceback (most recent call last):\n"
        f'  File "/w/runs/{ID}/code/train.py", line 4, in <module>\nValueError: bad lr'
    )
    found = explained(failed=rank(1), last_lines=lines)
    assert found.sentence.endswith("ValueError: bad lr (train.py, line 4)")


def test_memory_that_cannot_be_had(tmp_path: Path) -> None:
    limit = (1 << 30, 1 << 30)
    said = run_python(
        tmp_path,
        "x = bytearray(1 << 36)\n",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    found = explained("compute.mem=16G", **said)
    assert found.sentence == "rank 3 on node2 ran out of memory (train.py, line 1): MemoryError"
    assert found.override == "compute.mem=32G"
    assert explained(given=("compute=local",), **said).override == ""


@pytest.mark.parametrize(
    ("given", "override"),
    [
        (("compute.mem=1500M",), "compute.mem=3000M"),
        (("compute.mem=16000",), "compute.mem=32000"),
        (("compute.mem=0",), ""),
        ((), "compute.mem=0"),
        (("compute.extra.mem-per-cpu=4G",), "compute.extra.mem-per-cpu=8G"),
    ],
)
def test_twice_the_memory(given: tuple[str, ...], override: str) -> None:
    assert explained(*given, scheduler_state="OUT_OF_MEMORY").override == override


def test_a_full_disk(tmp_path: Path) -> None:
    source = "with open('/dev/full', 'w') as file:\n    file.write('x')\n"
    found = explained(**run_python(tmp_path, source))
    assert found.sentence == (
        "rank 3 on node2 could not write (train.py, line 1): the disk is full or the quota used up "
        "(OSError: [Errno 28] No space left on device)"
    )


def test_a_file_that_is_not_there_is_named_by_its_key(tmp_path: Path) -> None:
    said = run_python(tmp_path, "open('/data/digits/train.csv')\n")
    found = explained("data.digits.path=/data/digits", **said)
    assert found.sentence == (
        "rank 3 on node2 found no file /data/digits/train.csv (data.digits.path) (train.py, line 1)"
    )
    digest = "0123456789abcdef" * 4
    said = run_python(tmp_path, f"open('/home/me/.launcher/data/{digest}/digits/train.csv')\n")
    sent = f"data.digits={{path: /here/digits, upload: true, digest: {digest}}}"
    assert "train.csv (data.digits.path)" in explained(sent, **said).sentence
    said = run_python(tmp_path, "open('nosuch.csv')\n")
    assert "nosuch.csv (script_params.csv)" in explained(
        "script_params.csv=nosuch.csv", **said
    ).sentence  # fmt: skip
    assert "found no file nosuch.csv (train.py" in explained(**said).sentence


def test_a_file_that_may_not_be_used(tmp_path: Path) -> None:
    source = "import os\nos.setuid(65534) if os.getuid() == 0 else None\nopen('/etc/shadow')\n"
    sentence = explained(**run_python(tmp_path, source)).sentence
    assert "may not use /etc/shadow (train.py, line 3): permission denied" in sentence


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        address = used.getsockname()
        source = f"import socket\n\nsocket.socket().bind({address!r})\n"
        found = explained(**run_python(tmp_path, source))
    assert "found the port that it wanted in use by another process on node2" in found.sentence


PARSER = """\
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", type=float)
parser.add_argument("--mode", choices=["fast", "exact"])
parser.add_argument("--data", required=True)
parser.parse_args()
"""


@pytest.mark.parametrize(
    ("words", "says", "override"),
    [
        ("--data x --lerning-rate 1", "argument --lerning-rate (script_params.lerning-rate); it "
         "knows --learning-rate (script_params.learning-rate)", ""),
        ("--data x --lr 0.1", "does not know the argument --lr (script_params.lr)", ""),
        ("--learning-rate 1", "it needs script_params.data", ""),
        ("--data x --learning-rate y", "script_params.learning-rate: invalid float value: 'y'", ""),
        ("--data x --mode exct", "script_params.mode=exct is none of", "script_params.mode=exact"),
        ("--data x --mode slow", "script_params.mode=slow is none of", ""),
    ],
)  # fmt: skip
def test_arguments_that_the_script_does_not_take(
    tmp_path: Path, words: str, says: str, override: str
) -> None:
    found = explained(**run_python(tmp_path, PARSER, *words.split()))
    assert says in found.sentence
    assert found.override == override


HYDRA = """\
import hydra

@hydra.main(version_base=None, config_path=None)
def main(config):
    pass

main()
"""


def test_the_style_of_the_arguments(tmp_path: Path) -> None:
    found = explained(**run_python(tmp_path, HYDRA, "--lr", "0.1"))
    assert found.override == "params_style=hydra"
    found = explained("params_style=hydra", **run_python(tmp_path, PARSER, "--data", "x", "lr=0.1"))
    assert found.override == "params_style=argparse"


@pytest.mark.parametrize(
    ("number", "says", "override"),
    [
        (9, "was ended by SIGKILL, and nobody says why", "compute.mem=32G"),
        (11, "was ended by SIGSEGV, a fault in compiled code", "env.PYTHONFAULTHANDLER=1"),
        (6, "was ended by SIGABRT", "env.PYTHONFAULTHANDLER=1"),
        (4, "code was built for another processor", "environment.build_on=job"),
        (15, "was ended by SIGTERM, and nothing tells who sent it", ""),
        (40, "was ended by signal 40", ""),
    ],
)
def test_signals(tmp_path: Path, number: int, says: str, override: str) -> None:
    said = run_python(tmp_path, f"import os\nos.kill(os.getpid(), {number})\n")
    found = explained("compute.mem=16G", **said)
    assert says in found.sentence
    assert found.sentence.startswith("rank 3 on node2 ")
    assert found.override == override


def test_what_ssh_hosts_built_themselves_is_not_built_in_the_job() -> None:
    hosts = ("compute=ssh", "compute.hosts=[a,b]", *SLURM[1:])
    assert explained(given=hosts, failed=rank(signal=4)).override == ""
    assert explained(failed=rank(signal=4)).override == "environment.build_on=job"


def test_a_fault_tells_more_when_it_was_asked_to(tmp_path: Path) -> None:
    source = "import ctypes, faulthandler\nfaulthandler.enable()\nctypes.string_at(0)\n"
    found = explained("env.PYTHONFAULTHANDLER=1", **run_python(tmp_path, source))
    assert "(Fatal Python error: Segmentation fault)" in found.sentence
    assert found.override == ""


def test_lines_without_an_end_come_to_an_end() -> None:
    lines = ("stalled " * 60000, "nccl" * 90000, "a " * 500000)  # hours, if a search went back
    found = explained(failed=rank(3), last_lines=lines, launch_lines=lines)
    assert len(found.sentence) < 500


def test_a_shell_between_us_and_the_program() -> None:
    found = explained(failed=rank(137), last_lines="run.sh: line 3: 77 Killed python train.py")
    assert "was ended by SIGKILL" in found.sentence


# -- what torch, Horovod, NCCL and Open MPI say, recorded ------------------------------------

TRACE = f"""\
Traceback (most recent call last):
  File "/w/runs/{ID}/code/train.py", line 12, in <module>
    step()
  File "{TORCH}/nn/modules/module.py", line 1773, in _wrapped_call_impl
    return self._call_impl(*args, **kwargs)
"""


@pytest.mark.parametrize(
    ("raised", "says", "override"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a "
            "total capacity of 23.65 GiB of which 11.06 MiB is free. Including non-PyTorch memory, "
            "this process has 23.60 GiB memory in use.",
            "ran out of GPU memory: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a "
            "total capacity of 23.65 GiB of which 11.06 MiB is free",
            "",
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 281474976710656 bytes. Error code 12 (Cannot "
            "allocate memory)",
            "ran out of memory (train.py, line 12): RuntimeError: [enforce fail",
            "compute.mem=0",
        ),
        (
            "AssertionError: Torch not compiled with CUDA enabled",
            "wanted a GPU, and this environment's torch is built without",
            "environment=gpu",
        ),
        (
            "RuntimeError: Distributed package doesn't have NCCL built in",
            "wanted a GPU",
            "environment=gpu",
        ),
        ("RuntimeError: No CUDA GPUs are available", "sees no GPU", "environment=gpu"),
        (
            "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an "
            "NVIDIA GPU and installed a driver from http://www.nvidia.com/Download/index.aspx",
            "found no NVIDIA driver",
            "compute.exclude=node2",
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please "
            "update your GPU driver",
            "found an NVIDIA driver older than this environment's CUDA (NVIDIA driver on your system "
            "is too old (found version 11040))",
            "compute.exclude=node2",
        ),
        (
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local "
            "network address. port: 29577, useIpv6: false, code: -98, name: EADDRINUSE, message: "
            "address already in use",
            "found port 29577 in use by another process on node2",
            "",
        ),
        (
            "torch.distributed.DistStoreError: Timed out after 3 seconds waiting for clients. 1/2 "
            "clients joined.",
            "waited for ranks that did not come",
            "",
        ),
        (
            "torch.distributed.DistNetworkError: The client socket has timed out after 2000ms while "
            "trying to connect to (127.0.0.1, 29579).",
            "could not reach rank 0",
            "",
        ),
        (
            "RuntimeError: [enforce fail at /__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"
            "device.cc:84] ifa != nullptr. Unable to find address for: nosuch0",
            "could not talk with other ranks by Gloo (Unable to find address for: nosuch0)",
            "",
        ),
        (
            "RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] "
            "Connection closed by peer [127.0.0.1]:54663. This is typically caused by a remote worker "
            "crashing.",
            "lost another rank",
            "",
        ),
        (
            "horovod.common.exceptions.HorovodInternalError: Horovod has been shut down. This was "
            "caused by an exception on one of the ranks or an attempt to allreduce, allgather or "
            "broadcast a tensor after one of the ranks finished execution.",
            "lost another rank",
            "",
        ),
        (
            "horovod.common.exceptions.HorovodInternalError: Mismatched ALLREDUCE tensor shapes: One "
            "rank sent a tensor of shape [4], but another rank sent a tensor of shape [3].",
            "gave Horovod another tensor than other ranks did (Mismatched ALLREDUCE tensor shapes",
            "",
        ),
        (
            "horovod.common.exceptions.HorovodVersionMismatchError: Framework pytorch installed with "
            "version 2.12.0 but found version 2.13.0.",
            "Framework pytorch installed with version 2.12.0 but found version 2.13.0",
            "environment.provision=venv",
        ),
        (
            "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/"
            "ProcessGroupNCCL.cpp:1333, unhandled system error (run with NCCL_DEBUG=INFO for "
            "details), NCCL version 2.18.6\nncclSystemError: System call (e.g. socket, malloc) or "
            "external library call failed or device error. \nLast error:\nsocketStartConnect: "
            "Connect to 192.168.19.14<52822> failed : No route to host",
            "could not talk with other ranks by NCCL",
            "env.NCCL_DEBUG=INFO",
        ),
        (
            "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/"
            "NCCLUtils.hpp:275, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version "
            "2.20.5\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
            "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 10",
            "shares its GPU with another rank",
            "environment=gpu",
        ),
        (
            "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
            "node2 has no libcudart.so.12",
            "environment=gpu",
        ),
        (
            "ImportError: libmpi.so.40: cannot open shared object file: No such file or directory",
            "node2 has no libmpi.so.40",
            "environment.provision=venv",
        ),
        (
            "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required "
            "by /home/me/.venv/lib/python3.11/site-packages/x.so)",
            "it was built on a newer system than node2, which has no GLIBC_2.34",
            "environment.build_on=job",
        ),
        (
            "ImportError: /usr/lib/libmpi_cxx.so.1: undefined symbol: ompi_mpi_real",
            "libmpi_cxx.so.1 was built against another version of a library",
            "environment.provision=venv",
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_libraries_raise(raised: str, says: str, override: str) -> None:
    found = explained(failed=rank(1), last_lines=TRACE + raised)
    assert found.sentence.startswith("rank 3 on node2 ")
    assert says in found.sentence
    assert found.override == override


@pytest.mark.parametrize(
    ("lines", "says", "override"),
    [
        (
            "It looks like MPI_INIT failed for some reason; your parallel process is\nlikely to abort.",
            "could not initialise MPI",
            "compute.launch=mpirun",
        ),
        (
            "A requested component was not found, or was unable to be opened.  This\nmeans that this component is either not installed",
            "names a part of Open MPI that is not there (dist.mca)",
            "",
        ),
        (
            "RuntimeError: DataLoader worker (pid 77) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit.",
            "used up the shared memory of node2 (/dev/shm)",
            "",
        ),
        (
            "RuntimeError: CUDA error: device-side assert triggered",
            "did something wrong on the GPU",
            "env.CUDA_LAUNCH_BLOCKING=1",
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "has no code for",
            "compute.exclude=node2",
        ),
        (
            "RuntimeError: CUDA error: uncorrectable ECC error encountered",
            "used a GPU that failed",
            "compute.exclude=node2",
        ),
        ("RuntimeError: CUDA error: invalid device ordinal", "named a GPU", "environment=gpu"),
        (
            "[rank0]:[E ProcessGroupNCCL.cpp:616] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE)",
            "waited too long for another rank",
            "",
        ),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "ran out of memory",
            "compute.mem=0",
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_libraries_print(lines: str, says: str, override: str) -> None:
    found = explained(failed=rank(1), last_lines=lines)
    assert says in found.sentence
    assert found.override == override


def test_what_torch_puts_before_each_line() -> None:
    lines = (
        '[rank0]: Traceback (most recent call last):\n[rank0]:   File "/w/train.py", line 4, in '
        "<module>\n[rank0]: ValueError: bad lr"
    )
    found = explained(failed=rank(1, number=0), last_lines=lines)
    assert found.sentence.endswith("failed first: ValueError: bad lr (/w/train.py, line 4)")


def test_a_worker_that_was_killed_is_found_below_what_torch_raised_last() -> None:
    lines = f"""\
{TRACE}RuntimeError: DataLoader worker (pid 12690) is killed by signal: Killed.

The above exception was the direct cause of the following exception:

{TRACE}RuntimeError: DataLoader worker (pid(s) 12690) exited unexpectedly
"""
    found = explained("compute.mem=8G", failed=rank(1), last_lines=lines)
    assert "ran out of memory (train.py, line 12): DataLoader worker" in found.sentence
    assert found.override == "compute.mem=16G"


def test_gpus_that_were_asked_for() -> None:
    gpus = ("environment=gpu", "env.NCCL_DEBUG=info")
    for raised in ("RuntimeError: No CUDA GPUs are available", "RuntimeError: NCCL error: ncclX"):
        assert explained(*gpus, failed=rank(1), last_lines=TRACE + raised).override == ""


HORS = "launcher: /venv/bin/python cannot import Horovod: No module named 'horovod'"


def test_horovod_that_cannot_be_imported() -> None:
    found = explained(failed=rank(1), last_lines=HORS)
    assert found.sentence == ("rank 3 on node2 could not import Horovod: No module named 'horovod'")
    assert found.override == "environment.provision=venv"
    assert explained("environment.provision=venv", failed=rank(1), last_lines=HORS).override == ""


WORLD = (
    "launcher: 4 ranks were asked for, this one sees 1: they were not started by the MPI that this "
    "environment's Horovod is built with. Nothing was trained."
)


@pytest.mark.parametrize(
    ("given", "override"),
    [
        ((), "compute.launch=mpirun"),
        (("compute.launch=srun",), "compute.launch=mpirun"),
        (("compute.launch=mpirun",), "compute.launch=srun"),
        (("compute.mpi=pmi2",), "compute.mpi=auto"),
    ],
)
def test_ranks_that_do_not_see_each_other(given: tuple[str, ...], override: str) -> None:
    found = explained(*given, launch_lines=WORLD, exit_status=86)
    assert "the ranks did not see each other: 4 were asked for, each saw 1" in found.sentence
    assert found.override == override
    assert explained(*given, failed=rank(86)).override == override
    told = explained(*given, failed=rank(1, reason=WORLD))
    assert told == found


def test_on_this_machine_another_mpi_is_built() -> None:
    local = ("compute=local", "dist=mpi", "procs_per_node=2")
    assert explained(given=local, failed=rank(86)).override == "environment.provision=venv"


# -- what Slurm and mpirun say, recorded -----------------------------------------------------

OVER = """\
slurmstepd-node1: error: StepId=2.0 exceeded memory limit (186441728 > 52428800), being killed
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
slurmstepd-node1: error: Exceeded job memory limit
srun: error: node1: task 0: Killed"""
OOM = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0. Some of the step tasks have been "
    "OOM Killed."
)
OOM_22 = (
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=14604003.0 cgroup. Some of your "
    "processes may have been killed by the cgroup out-of-memory handler."
)


@pytest.mark.parametrize("lines", [OVER, OOM, OOM_22, "srun: error: o0616: task 0: Out Of Memory"])
def test_the_job_used_too_much_memory(lines: str) -> None:
    found = explained("compute.mem=16G", failed=rank(signal=9), launch_lines=lines)
    assert found.sentence.startswith(
        "rank 3 on node2 was killed because the job used more memory than it was given "
        "(compute.mem=16G): "
    )
    assert lines.splitlines()[0] in found.sentence
    assert found.override == "compute.mem=32G"


NODE = """\
srun: error: Node failure on node2
slurmstepd-node1: error: *** JOB 26 ON node1 CANCELLED AT 2026-11-23T07:57:39 DUE TO NODE FAILURE, \
SEE SLURMCTLD LOG FOR DETAILS ***
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
srun: error: node1: task 0: Terminated"""


def test_a_node_that_failed_is_named() -> None:
    found = explained(scheduler_state="NODE_FAIL", launch_lines=NODE, restarts=1)
    assert found.sentence == "node2 failed under the run after 1 restart [NODE_FAIL]"
    assert found.override == "compute.exclude=node2"
    found = explained(
        "compute.exclude='node7,node8'", scheduler_state="NODE_FAIL", launch_lines=NODE
    )
    assert found.override == 'compute.exclude="node7,node8,node2"'
    found = explained("compute.requeue=false", scheduler_state="NODE_FAIL", launch_lines=NODE)
    assert found.override == "compute.requeue=true"


def test_a_node_that_is_known_from_elsewhere() -> None:
    found = explained(state=RunState.LOST, scheduler_state="NODE_FAIL", scheduler_reason="NodeDown")
    assert found.sentence == "one of node[1-2] failed under the run [NODE_FAIL]"
    one = explained(given=("compute=slurm",), scheduler_state="NODE_FAIL", nodes="node2")
    assert one.sentence == "node2 failed under the run [NODE_FAIL]"
    told = explained(scheduler_state="NODE_FAIL", reason="node failure: node1")
    assert told.override == "compute.exclude=node1"


PREEMPTED = """\
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
slurmstepd-node1: error: *** STEP 2.0 ON node1 CANCELLED AT 2026-11-23T08:02:07 DUE TO PREEMPTION ***
srun: error: node1: tasks 0-2: Terminated"""


def test_preempted_for_good() -> None:
    found = explained("compute.requeue=false", launch_lines=PREEMPTED, failed=rank(signal=15))
    assert found.sentence == (
        "the job had to make room for another one and was not started again: compute.requeue is "
        "false [PREEMPTED]"
    )
    assert found.override == "compute.requeue=true"
    found = explained("compute.max_restarts=2", scheduler_state="PREEMPTED", restarts=2)
    assert "had been started again 2 times" in found.sentence
    assert found.override == "compute.max_restarts=4"


@pytest.mark.parametrize(
    ("limit", "sentence", "override"),
    [
        ("2:00:00", "the time limit was reached (compute.time=2:00:00)", "compute.time=4:00:00"),
        ("1-06:00:00", "the time limit was reached (compute.time=30:00:00)",
         "compute.time=2-12:00:00"),
        ("90", "the time limit was reached (compute.time=1:30:00)", "compute.time=3:00:00"),
    ],
)  # fmt: skip
def test_the_time_limit(limit: str, sentence: str, override: str) -> None:
    found = explained(f"compute.time={limit}", state=RunState.TIMED_OUT)
    assert (found.sentence, found.override) == (sentence, override)
    again = explained(f"compute.time={limit}", failed=rank(signal=15), scheduler_state="TIMEOUT")
    assert again.override == override
    local = explained(f"compute.time={limit}", given=("compute=local",), state=RunState.TIMED_OUT)
    assert local.override == override


def test_limits_that_slurm_tells() -> None:
    said = "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-23T08:00:07 DUE TO TIME LIMIT ***"
    found = explained("compute.time=60", failed=rank(signal=15), launch_lines=said)
    assert found.override == "compute.time=2:00:00"
    found = explained("compute.extra.deadline=tomorrow", scheduler_state="DEADLINE")
    assert found.override == "compute.extra.deadline=null"


def test_the_supervisors_word_on_the_time_limit_is_kept() -> None:
    said = "the time limit was reached, and this start had written no checkpoint"
    found = explained("compute.time=60", state=RunState.TIMED_OUT, reason=said)
    assert found.sentence == f"{said} (compute.time=1:00:00)"


def group(name: str, **values: Any) -> NodeGroup:
    size = {"nodes": 4, "cpus": 8, "mem_mb": 64000, "gpus": 0}
    return NodeGroup(partition=name, **{"default": False, "up": True, **size, **values})


def cluster(*groups: NodeGroup) -> Cluster:
    return Cluster(version="22.05.8", mpi=("pmix",), groups=groups)


def test_more_time_is_what_a_partition_gives() -> None:
    short = group("short", default=True, max_time_s=3600)
    there = cluster(short, group("long"), group("down", up=False))
    timed_out = functools.partial(explained, state=RunState.TIMED_OUT, cluster=there)
    assert timed_out("compute.time=40").override == "compute.time=1:00:00"
    assert timed_out("compute.time=60").override == "compute.partition=long"
    assert timed_out("compute.time=60", "compute.partition=long").override == "compute.time=2:00:00"
    assert timed_out().override == ""
    assert "partition's or QOS's own" in timed_out().sentence


@pytest.mark.parametrize(
    ("lines", "says", "override"),
    [
        (
            "srun: error: Couldn't find the specified plugin name for mpi/pmix_v9 looking at all "
            "files\nsrun: error: cannot find mpi plugin for mpi/pmix_v9\nsrun: error: MPI: Cannot "
            "create context for mpi/pmix_v9\nsrun: error: MPI: Unable to load any plugin\nsrun: "
            "error: Invalid MPI type 'pmix_v9', --mpi=list for acceptable types",
            "srun cannot start ranks of this MPI (srun: error: cannot find mpi plugin for mpi/pmix_v9",
            "compute.launch=mpirun",
        ),
        (
            "srun: error: Unable to create step for job 4: More processors requested than permitted",
            "the job has fewer cores than its ranks need",
            "",
        ),
        (
            "srun: error: Unable to create step for job 4: Memory required by task is not available",
            "the job has less memory than its step asks for",
            "compute.mem=0",
        ),
        (
            "There are not enough slots available in the system to satisfy the 64\nslots that were "
            "requested by the application:",
            "mpirun found fewer slots than ranks",
            "",
        ),
        (
            "ssh: Could not resolve hostname nosuchhost: Name or service not known\n-----\nA daemon "
            "failed to report back after being spawned. This could\nbe due to several factors",
            "mpirun could not start its daemon on another node",
            "compute.launch=mpirun",
        ),
        (
            "prterun was unable to launch the specified application as it could not\naccess an "
            "executable:\n\n   Executable: /nosuch/python",
            "a program is not there",
            "",
        ),
        (
            "slurmstepd-node2: error: execve(): /nosuch/program: No such file or directory\nsrun: "
            "error: node2: task 0: Exited with exit code 2",
            "a program is not there on node[1-2] (slurmstepd-node2: error: execve(): /nosuch/program",
            "",
        ),
        (
            "/w/runs/x/launch.sh: line 7: module: command not found",
            "the setup names a program that is not there",
            "",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition "
            "combination specified",
            "the cluster does not take compute.account=nosuch on compute.partition=null",
            "compute.account=null",
        ),
        (
            "sbatch: error: invalid partition specified: nosuch\nsbatch: error: Batch job submission "
            "failed: Invalid partition name specified",
            "there is no compute.partition=null",
            "",
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: "
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "a limit of the account or QOS was reached",
            "",
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_ranks_that_were_not_started(lines: str, says: str, override: str) -> None:
    found = explained("compute.account=nosuch", launch_lines=lines, exit_status=1)
    assert found.sentence.startswith("the ranks were not started: ")
    assert says in found.sentence
    assert found.override == override


def test_a_host_that_mpirun_did_not_get_to_is_told_by_ssh_itself() -> None:
    said = (
        "me@10.0.0.12: Permission denied (publickey).\n"
        "------------------------------------------------------------\n"
        "A daemon failed to report back after being spawned. This could\nbe due to several factors"
    )
    given = ("compute=ssh", "compute.hosts=[a,b]", "dist=mpi", "nodes=2")
    found = explained(given=given, launch_lines=said, exit_status=1)
    assert found.sentence == (
        "the ranks were not started: mpirun could not start its daemon on another node "
        "(me@10.0.0.12: Permission denied (publickey). A daemon failed to report back after being "
        "spawned. This could)"
    )
    assert found.override == ""  # none lets it in


def test_a_job_that_slurm_could_not_launch() -> None:
    found = explained(scheduler_reason="JobLaunchFailure", nodes="node2")
    assert found.sentence.startswith("Slurm could not launch the job on node2: runs_dir=runs must")


def test_an_end_that_no_rule_knows() -> None:
    found = explained(exit_status=7, reason="none left a word: exit status 7 of launch.sh")
    assert found.sentence == "none left a word: exit status 7 of launch.sh"
    found = explained(exit_status=7, launch_lines="hm\n-----\n")
    assert found.sentence == "the run failed: exit status 7; its last line: hm"
    nobody = {"last_lines": ["hm"]}  # no rank left a word
    found = explained(exit_status=7, failed=nobody, launch_lines="hm", reason="none left a word")
    assert found.sentence == "none left a word: exit status 7; its last line: hm"
    assert explained(failed=nobody, launch_lines=OOM).sentence.startswith("a rank was killed")
    assert explained(state=RunState.LOST).sentence == (
        "the run was lost: nothing tells how it ended"
    )


@pytest.mark.parametrize(
    ("state", "values", "sentence"),
    [
        (RunState.SUCCEEDED, {}, "the run succeeded"),
        (RunState.SUCCEEDED, {"restarts": 2}, "the run succeeded after 2 restarts"),
        (RunState.RUNNING, {"restarts": 1}, "the run is running on node[1-2] after 1 restart"),
        (RunState.CANCELLED, {}, "the run was cancelled"),
        (RunState.SUBMITTING, {"nodes": ""}, "the run is being submitted"),
    ],
)
def test_nothing_to_explain(state: RunState, values: dict[str, Any], sentence: str) -> None:
    assert explained(state=state, **values) == Explanation(sentence=sentence)


# -- the order between rules ------------------------------------------------------------------

LOST_RANK = TRACE + "horovod.common.exceptions.HorovodInternalError: Horovod has been shut down."
FULL_GPU = TRACE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB."


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"last_lines": LOST_RANK, "scheduler_state": "NODE_FAIL"}, "failed under the run"),
        ({"last_lines": LOST_RANK, "launch_lines": OOM}, "more memory than it was given"),
        ({"last_lines": LOST_RANK, "launch_lines": PREEMPTED}, "had to make room"),
        ({"last_lines": LOST_RANK, "scheduler_state": "TIMEOUT"}, "time limit"),
        ({"last_lines": LOST_RANK, "launch_lines": WORLD}, "did not see each other"),
        ({"last_lines": FULL_GPU, "launch_lines": OOM}, "GPU memory"),
        ({"last_lines": LOST_RANK}, "lost another rank"),
        ({"launch_lines": f"{OOM}\n{NODE}"}, "more memory than it was given"),
        ({"last_lines": TRACE + "ValueError: bad lr", "launch_lines": "x: command not found"},
         "ValueError: bad lr"),
    ],
)  # fmt: skip
def test_the_cause_comes_before_what_it_caused(values: dict[str, Any], says: str) -> None:
    assert says in explained(**{"failed": rank(1), **values}).sentence


def test_an_exception_that_was_survived_did_not_kill() -> None:
    found = explained(failed=rank(signal=11), last_lines=TRACE + "ValueError: bad lr")
    assert "SIGSEGV" in found.sentence


# -- why a job waits --------------------------------------------------------------------------

# Every reason that libslurm 22.05.8 knows, and the sentences that slurmctld puts in their place.
REASONS = """
None Priority Dependency Resources PartitionNodeLimit PartitionTimeLimit PartitionDown
PartitionInactive JobHeldAdmin JobHeldUser BeginTime Licenses AssociationJobLimit
AssociationResourceLimit AssociationTimeLimit Reservation ReqNodeNotAvail FrontEndDown SchedDefer
NodeDown BadConstraints SystemFailure JobLaunchFailure NonZeroExitCode TimeLimit InactiveLimit
InvalidAccount InvalidQOS QOSUsageThreshold QOSJobLimit QOSResourceLimit QOSTimeLimit BlockMaxError
BlockFreeAction Cleaning Prolog QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied
QOSGrpCpuLimit QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpJobsLimit QOSGrpMemLimit
QOSGrpNodeLimit QOSGrpSubmitJobsLimit QOSGrpWallLimit QOSMaxCpuPerJobLimit
QOSMaxCpuMinutesPerJobLimit QOSMaxNodePerJobLimit QOSMaxWallDurationPerJobLimit
QOSMaxCpuPerUserLimit QOSMaxJobsPerUserLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit
QOSMinCpuNotSatisfied AssocGrpCpuLimit AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit
AssocGrpJobsLimit AssocGrpMemLimit AssocGrpNodeLimit AssocGrpSubmitJobsLimit AssocGrpWallLimit
AssocMaxJobsLimit AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit AssocMaxNodePerJobLimit
AssocMaxWallDurationPerJobLimit AssocMaxSubmitJobLimit JobHoldMaxRequeue JobArrayTaskLimit
BurstBufferResources BurstBufferStageIn BurstBufferOperation PowerNotAvail PowerReserved
AssocGrpUnknown AssocGrpUnknownMinutes AssocGrpUnknownRunMinutes AssocMaxUnknownPerJob
AssocMaxUnknownPerNode AssocMaxUnknownMinutesPerJob AssocMaxCpuPerNode AssocGrpMemMinutes
AssocGrpMemRunMinutes AssocMaxMemPerJob AssocMaxMemPerNode AssocMaxMemMinutesPerJob
AssocGrpNodeMinutes AssocGrpNodeRunMinutes AssocMaxNodeMinutesPerJob AssocGrpEnergy
AssocGrpEnergyMinutes AssocGrpEnergyRunMinutes AssocMaxEnergyPerJob AssocMaxEnergyPerNode
AssocMaxEnergyMinutesPerJob AssocGrpGRES AssocGrpGRESMinutes AssocGrpGRESRunMinutes
AssocMaxGRESPerJob AssocMaxGRESPerNode AssocMaxGRESMinutesPerJob AssocGrpLicense
AssocGrpLicenseMinutes AssocGrpLicenseRunMinutes AssocMaxLicensePerJob
AssocMaxLicenseMinutesPerJob AssocGrpBB AssocGrpBBMinutes AssocGrpBBRunMinutes AssocMaxBBPerJob
AssocMaxBBPerNode AssocMaxBBMinutesPerJob QOSGrpUnknown QOSGrpUnknownMinutes
QOSGrpUnknownRunMinutes QOSMaxUnknownPerJob QOSMaxUnknownPerNode QOSMaxUnknownPerUser
QOSMaxUnknownMinutesPerJob QOSMinUnknown QOSMaxCpuPerNode QOSGrpMemoryMinutes
QOSGrpMemoryRunMinutes QOSMaxMemoryPerJob QOSMaxMemoryPerNode QOSMaxMemoryPerUser
QOSMaxMemoryMinutesPerJob QOSMinMemory QOSGrpNodeMinutes QOSGrpNodeRunMinutes
QOSMaxNodeMinutesPerJob QOSMinNode QOSGrpEnergy QOSGrpEnergyMinutes QOSGrpEnergyRunMinutes
QOSMaxEnergyPerJob QOSMaxEnergyPerNode QOSMaxEnergyPerUser QOSMaxEnergyMinutesPerJob QOSMinEnergy
QOSGrpGRES QOSGrpGRESMinutes QOSGrpGRESRunMinutes QOSMaxGRESPerJob QOSMaxGRESPerNode
QOSMaxGRESPerUser QOSMaxGRESMinutesPerJob QOSMinGRES QOSGrpLicense QOSGrpLicenseMinutes
QOSGrpLicenseRunMinutes QOSMaxLicensePerJob QOSMaxLicensePerUser QOSMaxLicenseMinutesPerJob
QOSMinLicense QOSGrpBB QOSGrpBBMinutes QOSGrpBBRunMinutes QOSMaxBBPerJob QOSMaxBBPerNode
QOSMaxBBPerUser ReservationDeleted QOSMinBB DeadLine MaxBBPerAccount MaxCpuPerAccount
MaxEnergyPerAccount MaxGRESPerAccount MaxNodePerAccount MaxLicensePerAccount MaxMemoryPerAccount
MaxUnknownPerAccount MaxJobsPerAccount MaxSubmitJobsPerAccount PartitionConfig AccountingPolicy
FedJobLock OutOfMemory MaxMemPerLimit AssocGrpBilling AssocGrpBillingMinutes
AssocGrpBillingRunMinutes AssocMaxBillingPerJob AssocMaxBillingPerNode
AssocMaxBillingMinutesPerJob QOSGrpBilling QOSGrpBillingMinutes QOSGrpBillingRunMinutes
QOSMaxBillingPerJob QOSMaxBillingPerNode QOSMaxBillingPerUser QOSMaxBillingMinutesPerJob
MaxBillingPerAccount QOSMinBilling WaitingForScheduling AssociationTimeLimit Constraints
""".split()
SENTENCES = [
    "ReqNodeNotAvail, UnavailableNodes:node2",
    "ReqNodeNotAvail, Reserved for maintenance",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
    "Job's account not permitted to use this partition (debug allows a not b)",
    "Job's QOS not permitted to use this partition (debug denies a including b)",
    "launch failed requeued held",
    "job requeued in held state",
    "job requeued in special exit state",
]


@pytest.mark.parametrize("reason", [*REASONS, *SENTENCES])
def test_every_reason_has_a_sentence_with_slurms_word(reason: str) -> None:
    found = pending(f"({reason})")
    assert found.sentence.startswith("the job waits: ")
    word = reason.replace("_", " ")
    assert found.sentence.endswith(f" [{word}]") or reason == "None"
    assert "{" not in found.sentence


@pytest.mark.parametrize(
    ("reason", "given", "says", "override"),
    [
        ("", (), "Slurm has not looked at it yet", ""),
        ("Priority", (), "other jobs come first", ""),
        ("QOSMaxJobsPerUserLimit", ("compute.qos=tiny",),
         "you have as many running jobs as the QOS tiny allows", ""),
        ("QOSMaxNodePerJobLimit", ("compute.qos=small",),
         "it asks for more nodes than the QOS small gives a job (nodes=2): it will not start", ""),
        ("QOSMaxWallDurationPerJobLimit", ("compute.time=30",),
         "more time than the QOS gives a job (compute.time=0:30:00)", ""),
        ("QOSMaxCpuPerUserLimit", (), "the QOS does not give one user more cores at a time", ""),
        ("QOSGrpJobsLimit", (), "there are as many running jobs as the QOS allows", ""),
        ("AssocGrpCPUMinutesLimit", ("compute.account=research",),
         "the account research has not enough core minutes left for it", ""),
        ("AssocGrpGRES", (), "the jobs of the account use all its GPUs", ""),
        ("QOSMinGRES", (), "the QOS demands more GPUs than it asks for", ""),
        ("PartitionTimeLimit", ("compute.partition=short", "compute.time=100"),
         "compute.time=1:40:00 is more than the partition short gives", "compute.partition=debug"),
        ("PartitionTimeLimit", ("compute.partition=short", "compute.time=100", "nodes=8"),
         "compute.time=1:40:00 is more than", "compute.time=1:00:00"),
        ("PartitionDown", ("compute.partition=short",), "the partition short does not start jobs",
         "compute.partition=debug"),
        ("PartitionDown", (), "the default partition does not start jobs",
         "compute.partition=short"),
        ("PartitionNodeLimit", ("nodes=5",), "(nodes=5)", ""),
        ("ReqNodeNotAvail, UnavailableNodes:node2", ("compute.nodelist=node2",),
         "are down or drained: node2", "compute.nodelist=null"),
        ("BadConstraints", ("compute.constraint=a100",), "no node has", "compute.constraint=null"),
        ("DependencyNeverSatisfied", ("compute.extra.dependency=afterok:7",), "it will not start",
         "compute.extra.dependency=null"),
        ("Reservation", ("compute.reservation=later",), "has not begun",
         "compute.reservation=null"),
        ("JobHeldUser", (), "`scontrol release` frees it", ""),
        ("InvalidQOS", ("compute.qos=nosuch",), "the QOS nosuch is not valid", "compute.qos=null"),
        ("SomethingNew", (), "the job waits [SomethingNew]", ""),
    ],
)  # fmt: skip
def test_why_a_job_waits(reason: str, given: tuple[str, ...], says: str, override: str) -> None:
    there = cluster(group("debug", default=True), group("short", max_time_s=3600))
    found = pending(reason, *given, cluster=there)
    assert says in found.sentence
    assert found.override == override


def test_a_job_that_waits_to_start_again() -> None:
    found = pending("BeginTime", restarts=1, reason="preempted")
    assert found.sentence == (
        "restart 1, after preempted: the job waits: its time to start has not come [BeginTime]"
    )


def test_a_partition_is_suggested_only_where_the_job_fits() -> None:
    down = group("debug", default=True, up=False)
    for small in (
        group("x", cpus=1),
        group("x", nodes=1),
        group("x", up=False),
        group("x", mem_mb=1000),
        group("x", max_time_s=60),
    ):
        given = ("compute.mem=16G", "compute.time=60")
        assert pending("PartitionDown", *given, cluster=cluster(down, small)).override == ""
    halves = (group("x", nodes=1), group("x", nodes=1, cpus=16))
    assert pending("PartitionDown", cluster=cluster(down, *halves)).override == (
        "compute.partition=x"
    )
