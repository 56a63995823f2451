"""The processor, as far as training depends on it."""

import hashlib
import platform
import re
from pathlib import Path


def identity() -> dict[str, str]:
    """Two machines of which it is the same compute the same bytes."""
    about = _about()
    features = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()[:16]
    return {
        "architecture": platform.machine(),
        "processor": features if about else platform.processor(),
    }


def multiplies_bfloat16() -> bool:
    """Whether it has instructions for that: without them bfloat16 is slower than float32."""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", "\n".join(_about())))


def _about() -> set[str]:
    """The lines in which Linux describes the processor; elsewhere none."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return {line for line in lines if line.startswith(("model name", "flags", "Features"))}
