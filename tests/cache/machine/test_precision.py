import pytest
import torch

from cache.errors import CacheWarning
from cache.machine.choices import PRECISIONS
from cache.machine.precision import (
    DTYPES,
    dtype_name,
    precision_named,
    resolve_dtype,
    resolve_precision,
)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_is_what_a_gpu_computes_itself_and_not_what_it_emulates(
    monkeypatch, has_bf16, expected
):
    def is_supported(including_emulation=True):
        return including_emulation or has_bf16  # as torch answers on a T4

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("capability", "precision", "device", "told"),
    [
        ("AVX2", "bf16", "cpu", 1),
        ("AVX2", "fp16", "cpu", 1),
        ("AVX2", "fp32", "cpu", 0),
        ("AVX2", "auto", "cpu", 0),
        ("AVX512", "bf16", "cpu", 0),
        ("AVX2", "bf16", "cuda", 0),
    ],
)
def test_half_precision_that_a_cpu_emulates_is_told(
    monkeypatch, recwarn, capability, precision, device, told
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    resolve_precision(precision, torch.device(device))
    assert [warning.category for warning in recwarn] == [CacheWarning] * told


def test_auto_is_fp32_on_a_cpu_and_what_was_asked_for_stays():
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    assert set(DTYPES) | {"auto"} == set(PRECISIONS)


@pytest.mark.parametrize("name", DTYPES)
def test_the_name_of_a_dtype_leads_back_to_it(name):
    assert precision_named(dtype_name(DTYPES[name])) == name
