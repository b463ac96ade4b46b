import json

import pytest
import torch

from tutelage.errors import ModelError
from tutelage.models import device
from tutelage.models.device import (
    choose_device,
    choose_dtype,
    cpu_features,
    cpuinfo_flags,
    describe_device,
    has_bf16_units,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto").type == chosen
    assert choose_device("cpu") == CPU


def test_a_device_that_is_unknown_or_absent_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="torch finds none"):
        choose_device("cuda:1")
    with pytest.raises(ModelError, match="Found device 'tpu'"):
        choose_device("tpu")


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_auto_takes_bfloat16_on_cpus_that_multiply_it(monkeypatch, feature):
    monkeypatch.setattr(device, "cpu_features", lambda: frozenset({"avx2", feature}))
    assert choose_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(device, "cpu_features", lambda: frozenset({"avx2", "avx512_f"}))
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16  # always overridable


def test_auto_takes_float32_on_mps_and_on_old_gpus(monkeypatch):
    assert choose_dtype("auto", torch.device("mps")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert choose_dtype("auto", torch.device("cuda")) == torch.float32


def test_a_dtype_that_is_unknown_or_useless_here_is_refused():
    with pytest.raises(ModelError, match="Found dtype 'int8'"):
        choose_dtype("int8", CPU)
    with pytest.raises(ModelError, match="float16 was asked for on a CPU"):
        choose_dtype("fp16", CPU)
    assert choose_dtype("fp16", torch.device("cuda")) == torch.float16


def test_the_flags_of_cpuinfo_are_read(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile\nbugs\t\t: spectre\n")
    assert cpuinfo_flags(tmp_path / "cpuinfo") == {"fpu", "avx512_bf16", "amx_tile"}
    assert cpuinfo_flags(tmp_path / "none") == frozenset()


@pytest.mark.skipif(not device.CPUINFO.is_file(), reason="no /proc/cpuinfo on this system")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch has no torch.cpu.get_capabilities")
def test_torch_and_the_kernel_agree_on_bf16_units():
    kernel = cpuinfo_flags(device.CPUINFO)
    assert has_bf16_units(CPU) == any(name in kernel for name in device.BF16_CPU_FEATURES)


def test_without_torchs_own_answer_the_kernels_is_used(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    assert cpu_features() == {"amx_bf16"}


def test_the_description_is_plain_json_and_follows_dtype_and_threads():
    described = describe_device(CPU, torch.bfloat16)
    assert json.loads(json.dumps(described)) == described
    assert (described["dtype"], described["threads"]) == ("bfloat16", 1)
    assert described != describe_device(CPU, torch.float32)
