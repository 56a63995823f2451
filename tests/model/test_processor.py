"""What is read about the processor."""

from __future__ import annotations

import pytest

from model import processor


@pytest.mark.parametrize(
    ("line", "multiplies"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512vl", True),
        ("flags\t\t: amx_bf16 amx_tile", True),
        ("Features\t: asimd bf16 i8mm", True),  # ARM
        ("flags\t\t: fpu avx512f avx512vl amx_tile", False),
        ("Features\t: asimd i8mm", False),
        ("", False),
    ],
)
def test_bfloat16_is_for_processors_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, line: str, multiplies: bool
) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"model name\t: some", line})
    assert processor.multiplies_bfloat16() is multiplies


def test_another_processor_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = processor.identity()
    assert processor.identity() == ours
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {"flags\t\t: fpu"})
    assert processor.identity() != ours
