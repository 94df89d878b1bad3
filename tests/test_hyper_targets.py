"""The tensors that a hypernetwork generates, from wherever they are known."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import initconf
from initconf.errors import CompileError, InitConfError, SpecError
from initconf.generated import described
from initconf.hyper.targets import Target, declared, from_meta, from_shapes, from_sites, of_object
from initconf.spec import DeclaredTargets
from initconf.survey import survey

Row = tuple[str, str, Any, float | None, float | None]
"""Name, kind, layer, fan_in, fan_out."""


def rows(targets: list[Target] | tuple[Target, ...]) -> list[Row]:
    return [(t.name, t.kind, t.layer, t.fan_in, t.fan_out) for t in targets]


# --- from a module ---------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[], nn.Module], list[Row]]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)),
        [("0.weight", "weight", "0", 6, 4), ("0.bias", "bias", "0", 6, 4), ("2.weight", "weight", "2", 4, 2)],
    ),
    "alone": (lambda: nn.Linear(6, 4), [("weight", "weight", "weight", 6, 4), ("bias", "bias", "weight", 6, 4)]),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, groups=4)),
        [("0.weight", "weight", "0", 18, 9), ("0.bias", "bias", "0", 18, 9)],
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(64, 32, 4, stride=2)),
        [("0.weight", "weight", "0", 256, 512), ("0.bias", "bias", "0", 256, 512)],
    ),
    "norms": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.LayerNorm(5), nn.RMSNorm(5)),
        [
            ("0.weight", "norm_scale", None, None, None),
            ("0.bias", "norm_shift", None, None, None),
            ("1.weight", "norm_scale", None, None, None),
            ("1.bias", "norm_shift", None, None, None),
            ("2.weight", "norm_scale", None, None, None),
        ],
    ),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2),
        [
            ("in_proj_weight", "weight", "in_proj_weight", 8, 8),
            ("in_proj_bias", "bias", "in_proj_weight", 8, 24),
            ("out_proj.weight", "weight", "out_proj", 8, 8),
            ("out_proj.bias", "bias", "out_proj", 8, 8),
        ],
    ),
    "lstm": (
        lambda: nn.LSTM(3, 5),
        [
            ("weight_ih_l0", "weight", "weight_ih_l0", 3, 5),
            ("weight_hh_l0", "weight", "weight_hh_l0", 5, 5),
            ("bias_ih_l0", "bias", "weight_ih_l0", 3, 20),
            ("bias_hh_l0", "bias", "weight_hh_l0", 5, 20),
        ],
    ),
    "others": (
        lambda: nn.Sequential(nn.Embedding(7, 4), nn.PReLU(4)),
        [("0.weight", "embedding", None, None, None), ("1.weight", "scalar", None, None, None)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_kinds_layers_and_fans_are_those_of_the_sites(case: str) -> None:
    build, expected = CASES[case]
    found = from_sites(survey(build()), "relu")
    assert rows(found) == expected
    assert [t.shape for t in found] == [tuple(p.shape) for p in build().parameters()]
    assert all(t.nonlinearity == "relu" and "nonlinearity" not in t.assumed for t in found)


def test_of_a_tied_tensor_there_is_one_target() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight

    assert rows(from_sites(survey(Tied()))) == [("head.weight", "embedding", None, None, None)]


def test_a_bias_belongs_to_a_tied_weight_by_any_name() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    assert rows(from_sites(survey(Twice()))) == [
        ("a.weight", "weight", "a", 4, 4),
        ("a.bias", "bias", "a", 4, 4),
        ("b.bias", "bias", "a", 4, 4),
    ]


def test_of_unequal_blocks_the_mean_fan_counts() -> None:
    spec = {"layouts": {"qkv": {"match": "weight", "blocks": {"names": ["q", "kv"], "sizes": [6, 2]}}}}
    site, _ = survey(nn.Linear(4, 8), declared=initconf.load(spec).layouts)
    assert rows(from_sites([site])) == [("weight", "weight", "weight", 4, (6 * 6 + 2 * 2) / 8)]


def test_what_is_not_said_is_marked() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.slope = nn.Linear(3, 2), nn.PReLU()
            self.whatever = nn.Parameter(torch.zeros(4))

    assert {t.name: t.assumed for t in from_sites(survey(Odd()))} == {
        "whatever": ("role", "kind", "mean"),
        "linear.weight": ("nonlinearity",),
        "linear.bias": ("nonlinearity",),
        "slope.weight": ("mean",),
    }


# --- from lists, shapes and objects ----------------------------------------------------------------------------------------


def test_a_list_takes_fans_from_shapes_where_it_does_not_say_them() -> None:
    said: list[Mapping[str, Any]] = [
        {"name": "w", "kind": "weight", "shape": [4, 6], "layer": 0, "nonlinearity": "tanh"},
        {"name": "b", "kind": "bias", "shape": [4], "layer": 0, "nonlinearity": "tanh", "var": 0.5},
        {"name": "conv", "kind": "weight", "shape": [16, 2, 3, 3], "layer": "c", "fan_in": 18, "fan_out": 36},
        {"name": "plain", "kind": "weight", "shape": [16, 2, 3, 3]},
        {"name": "s", "kind": "scalar", "shape": [], "mean": 1},
    ]
    found = declared(said)
    assert rows(found) == [
        ("w", "weight", 0, 6, 4),
        ("b", "bias", 0, None, None),
        ("conv", "weight", "c", 18, 36),
        ("plain", "weight", None, 18, 144),
        ("s", "scalar", None, None, None),
    ]
    assert [t.assumed for t in found] == [(), (), ("nonlinearity",), ("nonlinearity", "fans"), ()]
    assert [t.nonlinearity for t in found] == ["tanh", "tanh", "relu", "relu", "relu"]
    assert [t.numel for t in found] == [24, 4, 288, 288, 1]


def test_shapes_are_read_by_a_rule_of_thumb_that_is_marked() -> None:
    found = from_shapes([[16, 3, 3, 3], [16], [32, 16, 3, 3], [32], [32], [10, 2048], [10]])
    assert rows(found) == [
        ("0.weight", "weight", 0, 27, 144),
        ("1.bias", "bias", 0, None, None),
        ("2.weight", "weight", 1, 144, 288),
        ("3.bias", "bias", 1, None, None),
        ("4.bias", "bias", None, None, None),
        ("5.weight", "weight", 2, 2048, 10),
        ("6.bias", "bias", 2, None, None),
    ]
    assert all({"kind", "layer", "nonlinearity"} <= set(t.assumed) for t in found)
    assert "nonlinearity" not in from_shapes([[2, 3]], "tanh")[0].assumed


META = [
    {"name": "weight", "index": 0, "layer": 0},
    {"name": "bias", "index": 1, "layer": 0},
    {"name": "bn_scale", "index": 2, "layer": 1},
    {"name": "bn_shift", "index": 3, "layer": 1},
    {"name": "embedding", "index": 4, "layer": -1},
]
SHAPES = [[5, 4], [5], [5], [5], [7, 2]]
FROM_META: list[Row] = [
    ("0.weight", "weight", 0, 4, 5),
    ("1.bias", "bias", 0, None, None),
    ("2.bn_scale", "norm_scale", None, None, None),
    ("3.bn_shift", "norm_shift", None, None, None),
    ("4.embedding", "embedding", None, None, None),
]


def test_the_meta_data_of_hypnettorch() -> None:
    found = from_meta(SHAPES, META)
    assert rows(found) == FROM_META
    assert [t.assumed for t in found] == [("nonlinearity",), ("nonlinearity",), (), (), ()]


def test_an_object_says_what_it_is_made_of() -> None:
    whole = SimpleNamespace(
        param_shapes=SHAPES, param_shapes_meta=META, hyper_shapes_learned=SHAPES, hyper_shapes_learned_ref=[]
    )
    assert rows(of_object(whole)) == FROM_META
    some = SimpleNamespace(
        param_shapes=SHAPES, param_shapes_meta=META, hyper_shapes_learned=SHAPES[:2], hyper_shapes_learned_ref=[0, 1]
    )
    assert rows(of_object(some)) == FROM_META[:2]
    assert rows(of_object(SimpleNamespace(target_shapes=[[2, 3], [2]]), "tanh")) == [
        ("0.weight", "weight", 0, 3, 2),
        ("1.bias", "bias", 0, None, None),
    ]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: declared([{"name": "w", "kind": "weight"}]), "w: it has no shape"),
        (lambda: declared([{"name": "w", "kind": "wieght", "shape": [1]}]), "w: no kind of target is named 'wieght'"),
        (lambda: declared([{"name": "w", "kind": "bias", "shape": [1], "lair": 0}]), "w: 'lair' is not a key of a target"),
        (lambda: declared([{"name": "w", "kind": "bias", "shape": [1], "var": -1}]), "w: a variance is not negative"),
        (lambda: declared([Target("w", "bias", (1,)), Target("w", "bias", (2,))]), "w: two targets have this name"),
        (lambda: from_meta([[2]], META), "1 shapes, and meta data of 5 tensors"),
        (
            lambda: from_meta([[2]], [{"name": "bn_scales", "layer": 0}]),
            "no kind of tensor is named 'bn_scales'; did you mean 'bn_scale'?",
        ),
        (lambda: from_shapes([[2, 0]]), "[2, 0] is not a shape"),
        (lambda: from_shapes([3]), "3 is not a shape"),  # type: ignore[list-item]
        (lambda: of_object(3), "an object of class int does not say what it generates"),
    ],
    ids=["shape", "kind", "key", "var", "twice", "meta", "meta-kind", "zero", "number", "object"],
)
def test_what_is_no_target(make: Callable[[], Any], problem: str) -> None:
    with pytest.raises(InitConfError) as caught:
        make()
    assert str(caught.value).partition("\n")[0] == problem


# --- in a spec -------------------------------------------------------------------------------------------------------------


class Holder(nn.Module):
    """A model with main networks inside: registered, in a list, and not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 15)
        self.nets = nn.ModuleList([nn.Linear(1, 1), nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1, bias=False))])
        self.__dict__["free"] = [nn.Linear(2, 5)]


def of(targets: Any, given: Any = None, model: nn.Module | None = None) -> tuple[Target, ...]:
    spec = initconf.load({"targets": {"main": targets}} if targets is not None else {})
    return described(spec, model or Holder(), "main", {"main": given} if given is not None else None).targets


NET: list[Row] = [("0.weight", "weight", "0", 3, 3), ("0.bias", "bias", "0", 3, 3), ("2.weight", "weight", "2", 3, 1)]
LIST = [{"name": "b", "kind": "bias", "shape": [2], "layer": 0}, {"name": "w", "kind": "weight", "shape": [2, 3], "layer": 0}]
OF_LIST: list[Row] = [("b", "bias", 0, None, None), ("w", "weight", 0, 3, 2)]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ({"module": "nets.1"}, NET),
        ({"module": "free.0"}, [("weight", "weight", "weight", 2, 5), ("bias", "bias", "weight", 2, 5)]),
        ({"module": "nets.1", "order": ["2.weight", "0.bias", "0.weight"]}, NET[::-1]),
        (LIST, OF_LIST),
        ({"tensors": LIST, "order": ["w", "b"]}, OF_LIST[::-1]),
        ({"shapes": [[2, 3], [2]]}, [("0.weight", "weight", 0, 3, 2), ("1.bias", "bias", 0, None, None)]),
    ],
    ids=["module", "unregistered", "order", "list", "tensors", "shapes"],
)
def test_the_forms_of_a_spec(targets: Any, expected: list[Row]) -> None:
    assert rows(of(targets)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (nn.Linear(2, 5), [("weight", "weight", "weight", 2, 5), ("bias", "bias", "weight", 2, 5)]),
        (LIST, OF_LIST),
        (declared(LIST), OF_LIST),
        ([(2, 3), (2,)], [("0.weight", "weight", 0, 3, 2), ("1.bias", "bias", 0, None, None)]),
        ({"module": "nets.1"}, NET),
        ({"module": nn.Linear(2, 5), "order": ["bias", "weight"]},
         [("bias", "bias", "weight", 2, 5), ("weight", "weight", "weight", 2, 5)]),
        (DeclaredTargets.model_validate({"shapes": [[2, 3]]}), [("0.weight", "weight", 0, 3, 2)]),
        (SimpleNamespace(target_shapes=[[2, 3]]), [("0.weight", "weight", 0, 3, 2)]),
    ],
    ids=["module", "mappings", "targets", "shapes", "path", "mapping", "declared", "object"],
)  # fmt: skip
def test_the_forms_of_python(given: Any, expected: list[Row]) -> None:
    assert rows(of(None, given)) == expected
    assert rows(of({"shapes": [[9, 9]]}, given)) == expected  # it is stronger than the spec


def test_what_feeds_the_layers_is_said_beside_or_found() -> None:
    assert {t.nonlinearity for t in of({"module": "nets.1", "nonlinearity": "gelu"})} == {"gelu"}
    found = of({"module": "nets.1", "nonlinearity": "auto"})
    assert [t.nonlinearity for t in found if t.kind == "weight"] == ["linear", "tanh"]
    assert {t.nonlinearity for t in of({"shapes": [[2, 3], [2]], "nonlinearity": "tanh"})} == {"tanh"}
    said = [{**LIST[0]}, {**LIST[1], "nonlinearity": "selu"}]
    assert [t.nonlinearity for t in of({"tensors": said, "nonlinearity": "tanh"})] == ["tanh", "selu"]


def test_a_hypernetwork_may_say_itself_what_it_generates() -> None:
    model = Holder()
    model.target_shapes = [[2, 3], [2]]
    assert rows(of({"module": "."}, None, nn.DataParallel(model))) == rows(from_shapes([[2, 3], [2]]))


def test_a_path_leads_through_wrappers() -> None:
    model = Holder()
    model.nets[1] = nn.DataParallel(model.nets[1])
    assert rows(of({"module": "nets.1"}, None, nn.DataParallel(model))) == NET


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        (3, "init.targets.main = 3  (python): not targets\n"
            "  -> write {module: PATH}, {shapes: [[300, 784], [300]]}, or a list of targets"),
        ({}, "init.targets.main  (python): nothing says what the targets are\n  -> say one of module, shapes, tensors"),
        ({"module": "a", "shapes": [[1]]},
         "init.targets.main  (python): module and shapes exclude each other\n  -> say one of module, shapes, tensors"),
        ({"modul": "a"}, "init.targets.main.modul = 'a'  (python): 'modul' is not a key of a set of targets\n"
                         "  -> did you mean 'module'?"),
        ({"shapes": [[1, None]]}, "init.targets.main.shapes = [[1, None]]  (python): not a shape\n"
                                  "  -> write positive integers: [300, 784], and [] for a single number"),
        ([3], "init.targets.main.0 = 3  (python): a target is a mapping\n"
              "  -> write {name: w, kind: weight, shape: [300, 784]}"),
        ([{"name": "w", "kind": "weights", "shape": [2, 3]}],
         "init.targets.main.0.kind = 'weights'  (python): not a kind of target\n  -> did you mean 'weight'?"),
        ([{"name": "w", "kind": "weight"}], "init.targets.main.0  (python): the target has no shape\n"
                                            "  -> write {name: w, kind: weight, shape: [300, 784]}"),
        ([{"name": "w", "kind": "bias", "shape": [2], "vra": 1}],
         "init.targets.main.0.vra = 1  (python): 'vra' is not a key of a target\n  -> did you mean 'var'?"),
        ([{"name": "w", "kind": "bias", "shape": [2], "var": -1}],
         "init.targets.main.0.var = -1  (python): a variance is not negative\n  -> write 0 for a constant"),
        ([{"name": "w", "kind": "weight", "shape": [2, 2], "fan_in": 0}],
         "init.targets.main.0.fan_in = 0  (python): a fan is above 0\n"
         "  -> write the number of products in a sum, such as 784"),
        ([{"name": "w", "kind": "weight", "shape": [2, 2], "layer": 1.5}],
         "init.targets.main.0.layer = 1.5  (python): not a layer\n"
         "  -> write a string or an integer, the same for a weight and its bias"),
    ],
    ids=["number", "empty", "two", "key", "shapes", "item", "kind", "shape", "item-key", "var", "fan", "layer"],
)  # fmt: skip
def test_bad_targets_are_refused_when_a_spec_is_loaded(targets: Any, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        initconf.load({"targets": {"main": targets}})
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ({"module": "nets.3"}, "init.targets.main  (python): module: nets has no '3'\n  -> known: 0, 1"),
        ({"module": "net"}, "init.targets.main  (python): module: the model has no 'net'\n  -> did you mean 'nets'?"),
        ({"module": "nets.1.1"}, "init.targets.main  (python): module: a Tanh without parameters has nothing to generate"),
        ({"shapes": [[2, 3]], "order": ["0.wight"]},
         "2 problems:\n- init.targets.main  (python): order: no target is named '0.wight'\n    -> did you mean '0.weight'?\n"
         "- init.targets.main  (python): order: 0.weight is missing"),
        ({"shapes": [[2, 3]], "order": ["0.weight", "0.weight"]},
         "init.targets.main  (python): order: '0.weight' stands in it 2 times"),
        ([LIST[0], LIST[0]], "init.targets.main  (python): b: two targets have this name\n  -> give each its own"),
    ],
    ids=["item", "attribute", "empty", "order", "twice", "names"],
)  # fmt: skip
def test_targets_that_are_not_there(targets: Any, problem: str) -> None:
    with pytest.raises(CompileError) as caught:
        of(targets)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (3, "targets.main: an object of class int does not say what it generates"),
        ({"modul": 3}, "targets.main: modul: 'modul' is not a key of targets"),
        ({"module": nn.Linear(1, 1), "order": 3}, "targets.main: order: not a target's name"),
        (SimpleNamespace(param_shapes_meta=META, param_shapes=[[2]]), "targets.main: 1 shapes, and meta data of 5 tensors"),
    ],
    ids=["number", "key", "order", "meta"],
)
def test_bad_targets_of_python(given: Any, problem: str) -> None:
    with pytest.raises(CompileError) as caught:
        of(None, given)
    assert str(caught.value).partition("\n")[0] == problem


def test_targets_are_what_they_were_after_overrides() -> None:
    spec = initconf.load({"defaults": ["he"], "targets": {"main": LIST, "other": {"module": "a"}, "off": None}})
    bent = initconf.load(spec, ["gain=2", "targets.other.nonlinearity=tanh"])
    assert bent.targets["main"] == spec.targets["main"]
    assert bent.targets["off"] is None
    assert bent.targets["other"] == DeclaredTargets(module="a", nonlinearity="tanh")
    said = "targets={main: [{name: w, kind: weight, shape: [2, 3]}]}"
    assert initconf.load("he", [said]).targets == initconf.load({"targets": {"main": [{**LIST[1], "layer": None}]}}).targets


def test_an_error_in_a_file_names_its_line(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [he, _self_]\ntargets:\n  main:\n    - {name: w, kind: wight, shape: [2, 3]}\n")
    with pytest.raises(SpecError, match=re.escape(f"init.targets.main.0.kind = 'wight'  ({path}:3): not a kind of target")):
        initconf.load(path)


def test_targets_and_variances_need_no_torch() -> None:
    code = "import sys, initconf.hyper.variances; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
