"""GPUs, the lines between ranks, and signals."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from launcher.explain import advice
from launcher.explain.evidence import Explanation, short
from launcher.explain.signs import sign

if TYPE_CHECKING:
    from launcher.explain.evidence import Evidence
    from launcher.explain.signs import Sign

_GPU_MEMORY = re.compile(
    r"(?:CUDA|HIP) out of memory.*|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"cudaErrorMemoryAllocation"
)
_WHERE_RAISED = re.compile(r" \(?(?:Triggered internally|Exception raised from).*")


def gpu_memory(evidence: Evidence) -> Explanation | None:
    """Explain a GPU that is full: what is put on it is the script's own."""
    found = evidence.error(_GPU_MEMORY)
    if not found:
        return None
    said = ". ".join(short(found[0]).split(". ")[:3]).rstrip(".")
    return Explanation(sentence=f"{evidence.who} ran out of GPU memory: {said}")


def _another_node(evidence: Evidence) -> str:
    return advice.without_node(evidence, str(evidence.failed.get("host", "")))


def _one_gpu(evidence: Evidence) -> str:
    return "" if evidence.option("environment.gpus_per_proc") else advice.on_gpus(evidence)


def _nccl_says(evidence: Evidence) -> str:
    """Return what makes NCCL tell more, where it was not asked to."""
    given = evidence.option("env.NCCL_DEBUG")
    return "" if str(given).upper() in ("INFO", "TRACE") else "env.NCCL_DEBUG=INFO"


def _debug_cuda(evidence: Evidence) -> str:
    """Return what makes CUDA tell the line that failed."""
    return "" if evidence.option("env.CUDA_LAUNCH_BLOCKING") else "env.CUDA_LAUNCH_BLOCKING=1"


# What torch, CUDA, NCCL, Gloo, Horovod and Open MPI say. The first match counts.
_SAID: tuple[Sign, ...] = (
    sign(
        r"Torch not compiled with CUDA enabled|(?:doesn't have NCCL|NCCL support is not) .*",
        "wanted a GPU, and this environment's torch is built without",
        advice.on_gpus,
    ),
    sign(
        r"No CUDA GPUs are available|no CUDA-capable device is detected",
        "sees no GPU",
        advice.on_gpus,
    ),
    sign(r"Found no NVIDIA driver on your system", "found no NVIDIA driver", _another_node),
    sign(
        r"NVIDIA driver on your system is too old.*?\)|CUDA driver version is insufficient[\w ]*",
        "found an NVIDIA driver older than this environment's CUDA",
        _another_node,
    ),
    sign(
        r"no kernel image is available for execution on the device",
        "found a GPU that this environment's torch has no code for",
        _another_node,
    ),
    sign(
        r"uncorrectable (?:NVLink|ECC) error|unrecognized error code|GPU is lost|fell off the bus|"
        r"CUDA (?:driver )?initialization.* failed|unspecified launch failure|"
        r"CUDA-capable device\(s\) is/are busy or unavailable",
        "used a GPU that failed",
        _another_node,
    ),
    sign(r"invalid device ordinal", "named a GPU that it does not have", _one_gpu),
    sign(
        r"device-side assert triggered|an illegal memory access was encountered",
        "did something wrong on the GPU",
        _debug_cuda,
    ),
    sign(
        r"Duplicate GPU detected : (rank \d+ and rank \d+) both on CUDA device \w+",
        "shares its GPU with another rank",
        _one_gpu,
    ),
    sign(
        r"Mismatched \w+ (?:tensor|data|CPU/GPU|root).*|Mismatched MPI operations.*",
        "gave Horovod another tensor than other ranks did",
    ),
    sign(
        r"Horovod has been shut down|[Cc]onnection closed by peer|Connection reset by peer|"
        r"remote process exited or there was a network error|ncclRemoteError|"
        r"Broken pipe|Socket closed|recvValue failed|peer.* (?:closed|crashed)",
        "lost another rank, which had ended or failed: see the other ranks' logs",
    ),
    sign(
        r"(?:[Ss]tall(?:ed)? .*|One or more tensors were submitted to be reduced.*)ranks?\b.*|"
        r"Watchdog caught collective operation timeout.*|Timed out waiting \d+ms for (?:recv|send)",
        "waited too long for another rank",
    ),
    sign(
        r"Timed out after \d+ seconds waiting for clients\. (\S+) clients joined",
        "waited for ranks that did not come",
    ),
    sign(
        r"client socket has (?:timed out|failed).*?(\(\S+, \d+\)|\[\S+\]:\d+)",
        "could not reach rank 0",
    ),
    sign(
        r"ncclSystemError|unhandled system error|socketStartConnect.*|Bootstrap : no socket.*",
        "could not talk with other ranks by NCCL",
        _nccl_says,
    ),
    sign(
        r"NCCL version .* mismatch|Mismatched NCCL version.*",
        "runs another version of NCCL than other ranks",
        advice.built,
    ),
    sign(
        r"NCCL error.*|nccl\w+Error.*|ncclInvalidUsage.*|unhandled cuda error.*",
        "failed in NCCL",
        _nccl_says,
    ),
    sign(
        r"Unable to (?:find address for|resolve hostname).*|gloo\S* .*connect.*",
        "could not talk with other ranks by Gloo",
    ),
    sign(
        r"OMPI was not built with SLURM'?s? PMI|PMIX? .*(?:error|fail).*|PMIx_Init failed.*",
        "was started in another way than this environment's MPI can take",
        advice.other_starter,
    ),
    sign(
        r"A requested component was not found, or was unable to be opened",
        "names a part of Open MPI that is not there (dist.mca)",
    ),
    sign(
        r"MPI_INIT failed|error occurred in MPI_Init\w*",
        "could not initialise MPI",
        advice.other_starter,
    ),
)


def talk(evidence: Evidence) -> Explanation | None:
    """Explain what the libraries of GPUs and of ranks say."""
    for each in _SAID:
        found = evidence.error(each.said)
        if found:
            said = short(_WHERE_RAISED.sub("", found[0]))
            sentence = f"{evidence.who} {each.means} ({said})"
            return Explanation(sentence=sentence, override=each.helps(evidence))
    return None


def by_signal(evidence: Evidence) -> Explanation | None:
    """Explain a rank that a signal ended."""
    number = evidence.signal or _of_shell(evidence.status)
    if not number:
        return None
    start = f"{evidence.who} was ended by {_name(number)}"
    if number == signal.SIGKILL:
        return Explanation(
            sentence=f"{start}, and nobody says why: most often the memory ran out",
            override=advice.more_memory(evidence),
        )
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT):
        last = next((each for each in evidence.lines if "Fatal" in each or "terminate" in each), "")
        said = f" ({short(last)})" if last else ""
        shown = evidence.option("env.PYTHONFAULTHANDLER")
        return Explanation(
            sentence=f"{start}, a fault in compiled code{said}",
            override="" if shown else "env.PYTHONFAULTHANDLER=1",
        )
    if number == signal.SIGILL:
        return Explanation(
            sentence=f"{start}: code was built for another processor than that of {evidence.here}",
            override=advice.built_in_job(evidence),
        )
    return Explanation(sentence=f"{start}, and nothing tells who sent it")


def _of_shell(status: int | None) -> int:
    # a shell between us and the program tells a signal as 128 and its number
    return status - 128 if status in (134, 135, 136, 137, 139) else 0


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
