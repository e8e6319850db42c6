"""What a process is told about its libraries."""

from collections.abc import Iterator

import pytest
import torch

from c3s3_seg.system.process import only_repeatable


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give torch its settings back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    fill, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    algorithms = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(algorithms)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.usefixtures("as_before")
def test_repeatable_torch_fills_no_fresh_tensors() -> None:
    torch.utils.deterministic.fill_uninitialized_memory = True
    only_repeatable("openvino")
    assert not torch.are_deterministic_algorithms_enabled()
    only_repeatable("torch")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory is False
    assert torch.backends.cudnn.benchmark is False
