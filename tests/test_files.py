"""Tensors in files: what is found in each kind, what is said of those that cannot be read, and what stays in memory."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import initconf
from initconf import files
from initconf.comparison import EQUAL, compare
from initconf.errors import CompileError, InitConfError
from initconf.files import contents
from tests.ranks import pretended

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
OTHER = {"a.weight": torch.zeros(2, 3)}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(path):
    with pytest.raises(InitConfError) as caught:
        contents(str(path))
    return str(caught.value)


def values(path):
    return {name: stored.read().tolist() for name, stored in contents(str(path)).items()}


# --- checkpoints that hold more than the tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held",
    [
        STATE,
        {"state_dict": STATE, "model": {"hidden": 3}, "loss": torch.tensor(0.1)},
        {"model_state_dict": STATE, "epoch": 3, "optimizer_state_dict": {"state": {0: {"step": torch.ones(())}}}},
        {"model": STATE, "ema": OTHER},
        {"model": {"hidden": 3}, "weights": STATE},
        {"net": STATE, "epoch": 3},
        {"state_dict": {"model": STATE}},
        {**STATE, "extra": {"x": torch.ones(1)}},
    ],
    ids=["bare", "state_dict", "model_state_dict", "model", "a configuration", "the only one", "two deep", "more below"],
)
def test_the_mapping_that_is_meant(held):
    torch.save(held, "x.pt")
    assert values("x.pt") == {name: tensor.tolist() for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ([torch.ones(2)], "x.pt holds no mapping of names to tensors"),
        ({}, "x.pt holds no mapping of names to tensors"),
        ({3: torch.ones(2)}, "x.pt holds no mapping of names to tensors: it has 3"),
        ({"epoch": 3, "state_dict": {}}, "x.pt holds no mapping of names to tensors: it has epoch, state_dict"),
        (
            {"generator": STATE, "discriminator": OTHER},
            "x.pt holds several mappings of tensors: generator, discriminator\n"
            "  -> save the one that is meant in a file of its own, or under 'state_dict'",
        ),
    ],
    ids=["a list", "nothing", "a number", "an empty state", "two"],
)
def test_no_mapping_or_several(held, text):
    torch.save(held, "x.pt")
    assert refused("x.pt") == text


def test_a_mapping_that_holds_itself():
    held = {"epoch": 3}
    held["state_dict"] = held
    torch.save(held, "x.pt")
    assert refused("x.pt") == "x.pt holds no mapping of names to tensors: it has epoch, state_dict"


# --- folders and indices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_a_folder_is_read(name, sharded, tmp_path):
    save = save_file if name.endswith("safetensors") else torch.save
    save(STATE, tmp_path / (part := f"part-{name}" if sharded else name))
    if sharded:
        (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(STATE, part)}))
    assert values(tmp_path) == {name: tensor.tolist() for name, tensor in STATE.items()}
    model = nn.ModuleDict({"a": nn.Linear(3, 2)})
    initconf.initialize(model, {"rules": {"all": {"glob": "**", "initializer": {"name": "pretrained", "path": str(tmp_path)}}}})
    assert torch.equal(model["a"].weight, STATE["a.weight"])


def test_folders_that_hold_no_file_to_read(tmp_path):
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp/.metadata").write_bytes(b"")
    assert refused("dcp") == (
        "dcp is a folder of torch.distributed.checkpoint\n"
        "  -> torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes a file of it"
    )
    (tmp_path / "empty").mkdir()
    assert refused("empty") == (
        "empty is a folder with none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
        "pytorch_model.bin.index.json"
    )


def test_an_index_that_names_what_its_part_lacks(tmp_path):
    save_file(STATE, "p.safetensors")
    where = dict.fromkeys([*STATE, "norm.bias"], "p.safetensors")
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": where}))
    assert refused("x.index.json") == "x.index.json says that 'norm.bias' is in p.safetensors, and it is not"
    where["norm.bias"] = "q.safetensors"
    (tmp_path / "y.index.json").write_text(json.dumps({"weight_map": where}))
    assert refused(tmp_path / "y.index.json") == f"there is no file {tmp_path / 'q.safetensors'}"


# --- tensors that cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: torch.ones(2, 3, device="meta"), "is stored on meta, without values"),
        (lambda: torch.eye(2, 3).to_sparse(), "is stored as torch.sparse_coo; only dense tensors are read"),
        (lambda: torch.eye(2, 3).to_sparse_csr(), "is stored as torch.sparse_csr; only dense tensors are read"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8), "is stored quantised, as torch.qint8"),
    ],
    ids=["meta", "coo", "csr", "quantised"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_that_cannot_be_read_is_there(make, fault):
    torch.save({**STATE, "a.weight": make()}, "x.pt")
    assert contents("x.pt")["a.weight"].fault == fault
    assert contents("x.pt")["a.weight"].shape == (2, 3)
    assert contents("x.pt")["a.bias"].fault is None
    model = nn.ModuleDict({"a": nn.Linear(3, 2)})
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, {"rules": {"all": {"glob": "**", "initializer": {"name": "pretrained", "path": "x.pt"}}}})
    assert str(caught.value).splitlines()[0].endswith(f"pretrained cannot serve it: x.pt [a.weight] {fault}")


@pytest.mark.parametrize("imported", [True, False], ids=["known", "not imported"])
def test_a_part_of_sharded_tensors(imported):
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = next(processes := pretended((2,)))
    torch.save({**STATE, "w": distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])}, "x.pt")
    processes.close()
    known = torch.serialization.get_safe_globals()
    if not imported:  # as in a process that has not imported torch.distributed.tensor
        torch.serialization.clear_safe_globals()
    try:
        assert refused("x.pt") == (
            "x.pt holds one process's part of sharded tensors (DTensor)\n"
            "  -> gather them before they are saved: torch.distributed.checkpoint.state_dict.get_model_state_dict "
            "with StateDictOptions(full_state_dict=True)"
        )
    finally:
        torch.serialization.add_safe_globals(known)


# --- memory ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """What `torch.load` was asked for, and a weak reference to the first tensor that it gave."""
    done, load = [], torch.load

    def recorded(path, **settings):
        data = load(path, **settings)
        done.append((settings["mmap"], settings["weights_only"], weakref.ref(next(iter(data.values())))))
        return data

    monkeypatch.setattr(torch, "load", recorded)
    return done


@pytest.mark.parametrize("kind", ["zip", "legacy", "index"])
def test_no_tensor_of_a_torch_file_outlives_the_comparison(kind, loads, tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    plan = initconf.initialize(model, "he").plan
    path = "x.bin" if kind == "index" else "x.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "index":
        path = "x.bin.index.json"
        (tmp_path / path).write_text(json.dumps({"weight_map": dict.fromkeys(model.state_dict(), "x.bin")}))
    stored = contents(path)
    gc.collect()
    assert [there() for _, _, there in loads] == [None]  # shapes and dtypes stay
    rows, _ = compare(plan, stored)
    assert {row.verdict for row in rows} == {EQUAL}
    gc.collect()
    assert [(mapped, safe, there()) for mapped, safe, there in loads] == [(kind != "legacy", True, None)] * 2


def test_a_file_is_opened_once_while_it_is_held(loads):
    torch.save(STATE, "x.pt")
    stored = contents("x.pt")
    with files.held_open():
        with files.held_open():
            for there in stored.values():
                there.read()
        stored["a.bias"].read()
        assert len(loads) == 2
    gc.collect()
    assert loads[1][2]() is None
    stored["a.bias"].read()
    assert len(loads) == 3


def test_numbers_of_the_other_byte_order():
    np.save("x.npy", np.arange(3, dtype=">f4"))
    stored = contents("x.npy")[""]
    assert (stored.shape, stored.dtype, stored.read().tolist()) == ((3,), "float32", [0, 1, 2])
