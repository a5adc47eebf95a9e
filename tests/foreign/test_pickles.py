"""What the restricted reader reads: published forms of networks and arrays, protocols 2 to 5."""

from __future__ import annotations

import collections
import json
import mmap
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from sida.errors import UserError
from sida.foreign import Inert, Refused, TensorView, read_pickle

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "pickles"
PROTOCOLS = (2, 3, 4, 5)


def tensors_of(module: Inert, prefix: str = "") -> dict[str, TensorView]:
    found = {}
    for kind in ("_parameters", "_buffers"):
        found |= {prefix + name: tensor for name, tensor in module.state[kind].items() if tensor is not None}
    for name, child in module.state["_modules"].items():
        found |= tensors_of(child, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("name", ["edm_like", "edm2_like", "sida_edm2_like"])
def test_a_network_saved_by_nvidias_persistence_is_read_bit_for_bit_and_not_executed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = read_pickle(GOLDEN / f"{name}.pkl", name)
    expected = load_file(GOLDEN / f"{name}.expected.safetensors")
    about = json.loads((GOLDEN / "expected.json").read_text())[name]
    found = tensors_of(value["ema"])
    assert list(value) == about["top_level_keys"]
    assert sorted(found) == sorted(about["names"])
    for tensor_name, array in expected.items():
        assert found[tensor_name].array().dtype == array.dtype
        np.testing.assert_array_equal(found[tensor_name].array(), array)
        assert found[tensor_name].parameter == (tensor_name not in about["buffers"])
    assert value["ema"].name == about["ema_class"]
    assert [repr(arg) for arg in value["ema"].state["_init_args"]] == about["init_args"]
    assert {key: str(arg) for key, arg in value["ema"].state["_init_kwargs"].items()} == about["init_kwargs"]
    assert list(tmp_path.iterdir()) == []


def test_a_bound_method_kept_as_a_hook_stays_a_pair_of_object_and_name() -> None:
    ema = read_pickle(GOLDEN / "sida_edm2_like.pkl", "sida")["ema"]
    seen: list[Any] = [ema]
    hooks = []
    for module in seen:
        seen.extend(child for child in module.state["_modules"].values() if child not in seen)
        hooks += [hook for key, hooks in module.state.items() if "hooks" in key for hook in hooks.values()]
    assert hooks and all(hook.name == "builtins.getattr" and isinstance(hook.args[1], str) for hook in hooks)


def check_one_line(error: Refused) -> None:
    assert len(str(error).splitlines()) == 1


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(-9, 9) | st.binary(max_size=3), inner, max_size=5)
        | st.sets(st.integers(0, 99), max_size=5)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_of_every_protocol_come_back_as_they_were(value: Any, protocol: int) -> None:
    found = read_pickle(pickle.dumps(value, protocol), "plain")
    assert found == value
    assert repr(type(found)) == repr(type(value))


@settings(deadline=None, max_examples=300)
@given(position=st.integers(0, 8000), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_bit_or_a_cut_gives_a_value_or_one_line_and_never_another_error(
    position: int, bit: int, cut: bool
) -> None:
    content = bytearray((GOLDEN / "edm_like.pkl").read_bytes())
    if cut:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    try:
        read_pickle(bytes(content), "damaged")
    except Refused as error:
        check_one_line(error)


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_and_raise_nothing_else(content: bytes) -> None:
    try:
        read_pickle(b"\x80\x04" + content, "noise")
    except Refused as error:
        check_one_line(error)


ARRAYS = {
    "float64": np.linspace(0, 1, 24).reshape(2, 3, 4),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "float16": np.arange(4, dtype=np.float16),
    "big-endian": np.arange(4, dtype=">i4"),
    "uint8": np.arange(10_000, dtype=np.uint8),
    "bool": np.array([[True, False]]),
    "empty": np.zeros((0, 3), np.int64),
    "no dimensions": np.array(3.5),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_arrays_and_scalars_of_every_protocol_are_read(protocol: int) -> None:
    value = {**ARRAYS, "scalar": np.float64(0.25), "again": ARRAYS["float64"]}
    found = read_pickle(pickle.dumps(value, protocol), "arrays")
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert found["scalar"] == 0.25 and found["again"] is found["float64"]
    assert not found["uint8"].flags.writeable


def test_a_batch_of_cifar_10_as_python_2_wrote_it_is_read() -> None:
    """Protocol 2 of Python 2's cPickle, by hand: keys, names and array data are byte strings; large integers text."""
    data = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + short(b"b") + b"\x87Rq\x03"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R(K\x03" + short(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", data.size) + data.tobytes() + b"tb"
    )  # fmt: skip
    content = (
        b"\x80\x02}q\x00(" + short(b"data") + array + short(b"labels") + b"](K\x06K\x09e"
        + short(b"batch_label") + short(b"training batch 1 of 5") + short(b"large") + b"I9223372036854775807\n"
        + short(b"filenames") + b"](" + short(b"a.png") + short(b"b.png") + b"eu."
    )  # fmt: skip
    found = read_pickle(content, "data_batch_1")
    np.testing.assert_array_equal(found.pop(b"data"), data)
    assert found == {
        b"labels": [6, 9],
        b"batch_label": b"training batch 1 of 5",
        b"large": 2**63 - 1,
        b"filenames": [b"a.png", b"b.png"],
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_of_every_type_strided_expanded_and_tied_are_read(protocol: int) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    value = {
        str(dtype).removeprefix("torch."): (torch.randn(3, 2) * 9).to(dtype)
        for dtype in (
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
            *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
        )
    }
    value |= {
        "transposed": base.t(),
        "sliced": base[1::2, 2:],
        "expanded": torch.randn(1, 4).expand(8, 4),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "empty": torch.zeros(0, 3),
        "no dimensions": torch.tensor(2.5),
        "large": torch.randn(100, 100),
    }
    value["tied"] = value["large"]
    value = collections.OrderedDict(value)
    found = read_pickle(pickle.dumps(value, protocol), "tensors")
    for name, tensor in value.items():
        view = found[name]
        assert view.shape == tuple(tensor.shape) and f"torch.{view.dtype}" == str(tensor.dtype)
        copy = torch.from_numpy(np.array(view.array()))
        assert torch.equal(copy.view(tensor.dtype) if view.dtype == "bfloat16" else copy, tensor.detach())
    assert found["parameter"].parameter and not found["large"].parameter
    assert found["tied"] is found["large"]


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": ARRAYS["uint8"]}, 4))
    found = read_pickle(tmp_path / "a.pkl", "a")["a"]
    np.testing.assert_array_equal(found, ARRAYS["uint8"])
    assert isinstance(found.base.base.obj, mmap.mmap)


def test_a_missing_or_too_large_file_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"net\.pkl: no such file"):
        read_pickle(tmp_path / "none", "net.pkl")
    monkeypatch.setattr("sida.foreign.limits.FILE_BYTES", 3)
    with pytest.raises(Refused, match=r"net\.pkl is refused: it is larger than 3 bytes"):
        read_pickle(b"\x80\x04N.", "net.pkl")


def test_shared_structure_is_read_once_however_often_it_is_mentioned() -> None:
    value: Any = []
    for _ in range(60):
        value = (value, value)
    found = read_pickle(pickle.dumps(value, 4), "shared")
    assert found[0] is found[1]
