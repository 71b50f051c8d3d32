"""The device by name, its arithmetic and memory layout."""

import pytest
import torch

from autoseg.errors import SettingError
from autoseg.networks.device import autocast, channels_last, choose_device, keep_freed_memory

CPU = torch.device("cpu")


def test_devices_by_name():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "", "meta"])
def test_a_device_that_is_not_here_is_explained(name):
    with pytest.raises(SettingError, match="device") as caught:
        choose_device(name)
    assert caught.value.where == "--device"
    assert "cuda:N" in str(caught.value)


def test_autocast_is_off_in_single_precision():
    x = torch.ones(2, 2)
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_channels_last_is_a_matter_of_memory_alone(shape):
    x = torch.randn(shape)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride(1) == 1


def test_keeping_freed_memory_does_no_harm():
    keep_freed_memory()
    assert float(torch.ones(1000, 1000).sum()) == 1e6
