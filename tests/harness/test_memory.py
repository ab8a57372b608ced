import numpy as np
import pytest
import torch

from flowzoo.harness.memory import PeakMemory


@pytest.fixture
def memory() -> PeakMemory:
    found = PeakMemory(torch.device("cpu"))
    found.start()
    if found.read() is None:
        pytest.skip("this system does not tell the peak of a part of a process")
    return found


def touch(megabytes: int) -> None:
    """Allocate, write to every page, and free."""
    np.ones(megabytes * 125_000)


def peak(memory: PeakMemory, megabytes: int) -> float:
    memory.start()
    touch(megabytes)
    found = memory.read()
    assert found is not None
    return found


def test_what_was_allocated_inside_shows_though_it_was_freed(memory: PeakMemory) -> None:
    before = peak(memory, 0)
    assert 290 < peak(memory, 300) - before < 330


def test_peak_of_one_cell_does_not_carry_over_to_the_next(memory: PeakMemory) -> None:
    before = peak(memory, 0)
    peak(memory, 300)
    assert abs(peak(memory, 0) - before) < 30


def test_no_figure_where_the_peak_cannot_be_reset(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr("flowzoo.harness.memory._CLEAR", tmp_path / "gone" / "clear_refs")
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    assert memory.read() is None


@pytest.mark.gpu
def test_gpu_peak_is_that_of_the_allocator_since_the_start() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    memory = PeakMemory(torch.device("cuda"))
    torch.empty(400_000_000, dtype=torch.uint8, device="cuda")
    memory.start()
    torch.empty(300_000_000, dtype=torch.uint8, device="cuda")
    found = memory.read()
    assert found is not None
    assert 300 <= found < 390
