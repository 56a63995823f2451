"""The properties of the processor that training depends on."""

import hashlib
import platform
import re
from pathlib import Path


def identity() -> dict[str, str]:
    """Identify the processor: machines with the same identity compute the same bytes."""
    lines = _cpuinfo()
    features = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
    return {
        "architecture": platform.machine(),
        "processor": features if lines else platform.processor(),
    }


def multiplies_bfloat16() -> bool:
    """Whether it has bfloat16 instructions: without them, bfloat16 is slower than float32."""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", "\n".join(_cpuinfo())))


def _cpuinfo() -> set[str]:
    """The lines in which Linux gives the processor's model and features; elsewhere none."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return {line for line in lines if line.startswith(("model name", "flags", "Features"))}
