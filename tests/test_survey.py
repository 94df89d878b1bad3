"""Walking a model: canonical names, ties, depth, and what cannot be initialised."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import initconf
from initconf.errors import CompileError
from initconf.owners import CONTAINERS, FLAT, NORMALISED, WRAPPERS, parameters
from initconf.survey import survey
from tests.small_models import untouched


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def sites(model, **more):
    return {site.name: site for site in survey(model, **more)}


def problems(model, **more):
    with pytest.raises(CompileError) as caught:
        survey(model, **more)
    return [str(problem) for problem in caught.value.problems]


# --- names -----------------------------------------------------------------------------------------------------------------

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def checkpointed():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper

    model = mlp()
    model[2] = offload_wrapper(model[2])
    return checkpoint_wrapper(model)


WRAPPED = {
    "plain": mlp,
    "torch.compile": lambda: torch.compile(mlp(), backend="eager"),
    "torch.compile, inside": lambda: nn.Sequential(torch.compile(mlp()[0], backend="eager"), nn.ReLU(), mlp()[2]),
    "DataParallel": lambda: nn.DataParallel(mlp()),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(mlp()),
    "checkpoint_wrapper and offload_wrapper": checkpointed,
    "three at once": lambda: torch.compile(torch.optim.swa_utils.AveragedModel(nn.DataParallel(mlp())), backend="eager"),
}


@pytest.mark.parametrize("row", WRAPPED)
def test_wrappers_leave_no_trace(row):
    expected, found = survey(mlp()), survey(WRAPPED[row]())
    assert [site.name for site in found] == NAMES
    assert found == expected  # owners, ancestors, layers and all
    assert list(parameters(WRAPPED[row]())) == NAMES


def test_wrappers_are_named_as_torch_names_them():
    """The list of wrappers is of dotted names, so that nothing is imported for it; here they meet the classes."""
    from torch._dynamo.eval_frame import OptimizedModule
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import ActivationWrapper
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn.parallel import DataParallel, DistributedDataParallel
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm
    from torch.optim.swa_utils import AveragedModel

    def dotted(cls):
        return f"{cls.__module__}.{cls.__qualname__}"

    assert {
        dotted(c) for c in (OptimizedModule, DistributedDataParallel, DataParallel, ActivationWrapper, AveragedModel)
    } == set(WRAPPERS)
    assert dotted(FullyShardedDataParallel) == FLAT
    assert (dotted(WeightNorm), dotted(SpectralNorm)) == NORMALISED
    assert (dotted(nn.ModuleList), dotted(nn.Sequential)) == CONTAINERS


def test_a_distributed_wrapper_is_known_by_its_class():
    cls = type(
        "DistributedDataParallel", (nn.Module,), {"__module__": "torch.nn.parallel.distributed", "forward": lambda self: None}
    )
    model = cls()
    model.module = mlp()
    assert [site.name for site in survey(model)] == NAMES
    child = type("MyParallel", (cls,), {})()  # Lightning and others derive from it
    child.module = mlp()
    assert [site.name for site in survey(child)] == NAMES


@pytest.mark.parametrize("attribute", ["module", "_orig_mod", "_checkpoint_wrapped_module"])
def test_a_user_s_attribute_of_a_wrapper_s_name_stays(attribute):
    model = nn.Module()
    model.add_module(attribute, nn.Linear(2, 3))
    assert [site.name for site in survey(model)] == [f"{attribute}.weight", f"{attribute}.bias"]
    inside = nn.Sequential(model)
    assert [site.name for site in survey(inside)] == [f"0.{attribute}.weight", f"0.{attribute}.bias"]
    assert [site.name for site in survey(nn.DataParallel(model))] == [f"{attribute}.weight", f"{attribute}.bias"]


def test_names_are_those_of_named_parameters():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    assert [site.name for site in survey(model)] == [name for name, _ in model.named_parameters()]
    assert {name: found.parameter.shape for name, found in parameters(model).items()} == {
        name: p.shape for name, p in model.named_parameters(remove_duplicate=False)
    }


def test_owners_and_ancestors_are_dotted():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

    (place,) = sites(nn.Sequential(Block()))["0.fc.weight"].places
    assert place.attribute == "weight"
    assert place.owner == ("torch.nn.modules.linear.Linear", "torch.nn.modules.module.Module")
    assert [classes[0] for classes in place.inside] == [
        "torch.nn.modules.container.Sequential",
        f"{__name__}.{Block.__qualname__}",
    ]


def test_what_a_site_knows_of_its_parameter():
    model = nn.Linear(2, 3, dtype=torch.bfloat16)
    site = sites(model)["weight"]
    assert (site.shape, site.dtype, site.on_meta, site.reset) == ((3, 2), "bfloat16", False, "reset_parameters")
    assert sites(nn.MultiheadAttention(4, 2))["in_proj_weight"].reset == "_reset_parameters"
    assert sites(type("Bare", (nn.ParameterList,), {})([torch.zeros(2)]))["0"].reset is None
    with torch.device("meta"):
        meta = nn.Linear(2, 3, dtype=torch.bfloat16)
    assert sites(meta)["weight"].on_meta
    assert survey(meta) == survey(model)  # where the values lie is no part of a site


def test_an_empty_model_has_no_sites():
    assert survey(nn.Module()) == []
    assert survey(nn.Sequential()) == []


def test_modules_that_hold_each_other():
    a, b = nn.Linear(2, 2), nn.Module()
    b.a, a.b = a, b
    assert [site.name for site in survey(a)] == ["weight", "bias"]


# --- ties ------------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A language model's embedding and head; the names are given."""

    def __init__(self, embedding="wte", head="lm_head"):
        super().__init__()
        self.add_module(embedding, nn.Embedding(10, 4, padding_idx=1))
        self.add_module(head, nn.Linear(4, 10, bias=False))
        getattr(self, head).weight = getattr(self, embedding).weight


@pytest.mark.parametrize(("embedding", "head"), [("wte", "lm_head"), ("emb", "head"), ("z", "a")])
def test_a_tied_head_is_an_embedding_under_its_smallest_name(embedding, head):
    (site,) = survey(Tied(embedding, head))
    both = sorted([f"{embedding}.weight", f"{head}.weight"])
    assert (site.name, site.aliases) == (both[0], (both[1],))
    assert site.role == "embedding"
    assert site.layout.zero_row == 1
    assert (site.fan_in, site.fan_out) == (1, 4)
    assert {place.name: place.owner[0].rpartition(".")[2] for place in site.places} == {
        f"{embedding}.weight": "Embedding",
        f"{head}.weight": "Linear",
    }


def test_a_module_under_two_names_is_one_site_per_parameter():
    shared = nn.Linear(3, 3)
    found = sites(nn.ModuleDict({"b": shared, "a": nn.ModuleDict({"c": shared})}))
    assert {name: site.aliases for name, site in found.items()} == {"a.c.weight": ("b.weight",), "a.c.bias": ("b.bias",)}


def test_ties_within_one_module():
    module = nn.Module()
    module.b = nn.Parameter(torch.zeros(2, 2))
    module.a = module.b
    (site,) = survey(module)
    assert (site.name, site.aliases) == ("a", ("b",))


def test_equal_values_are_no_tie():
    assert len(survey(nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)]).requires_grad_(False))) == 2


def test_a_tie_across_containers_has_the_depth_of_its_smallest_name():
    shared = nn.Linear(2, 2)
    first = nn.ModuleDict(
        {"b": nn.ModuleList([nn.Linear(2, 2), shared]), "a": nn.ModuleList([shared, nn.Linear(2, 2), shared])}
    )
    site = sites(first)["a.0.weight"]
    assert site.aliases == ("a.2.weight", "b.1.weight")
    assert (site.layer, site.n_layers) == (0, 2)


# --- depth -----------------------------------------------------------------------------------------------------------------


def depth(model, **more):
    return {name: (site.layer, site.n_layers) for name, site in sites(model, **more).items() if name.endswith("weight")}


class Net(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def block():
    return Net(norm=nn.LayerNorm(4), fc=nn.Linear(4, 4), out=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


def test_the_root_may_be_the_container():
    assert depth(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LayerNorm(3), nn.Linear(3, 2))) == {
        "0.weight": (0, 2),
        "2.weight": (None, 2),  # owns no weights: it is no layer
        "3.weight": (1, 2),
    }


def test_the_outermost_container_counts():
    found = depth(Net(emb=nn.Embedding(5, 4), blocks=nn.ModuleList([block(), block(), block()]), head=nn.Linear(4, 5)))
    assert {name: rank for name, rank in found.items() if name.startswith("blocks.1.")} == {
        "blocks.1.norm.weight": (1, 3),
        "blocks.1.fc.weight": (1, 3),
        "blocks.1.out.0.weight": (1, 3),
        "blocks.1.out.1.weight": (1, 3),
    }
    # outside of it there is no rank, but the number of layers is known
    assert found["emb.weight"] == found["head.weight"] == (None, 3)


def test_children_without_weights_are_no_layers():
    model = Net(layers=nn.ModuleList([nn.LayerNorm(4), nn.Linear(4, 4), nn.Dropout(), nn.LSTMCell(4, 4), nn.Embedding(3, 4)]))
    found = sites(model)
    assert (found["layers.1.weight"].layer, found["layers.3.weight_ih"].layer, found["layers.3.weight_hh"].layer) == (0, 1, 1)
    assert {(found[f"layers.{i}.weight"].layer, found[f"layers.{i}.weight"].n_layers) for i in (0, 4)} == {(None, 2)}
    assert found["layers.0.weight"].depth_note == "its part of the container owns no weights"


def test_encoder_and_decoder_count_by_themselves():
    found = sites(
        Net(encoder=nn.ModuleList([block(), block()]), decoder=Net(layers=nn.ModuleList([block()])), head=nn.Linear(4, 4))
    )
    assert (found["encoder.1.fc.weight"].layer, found["encoder.1.fc.weight"].n_layers) == (1, 2)
    assert (found["decoder.layers.0.fc.weight"].layer, found["decoder.layers.0.fc.weight"].n_layers) == (0, 1)
    head = found["head.weight"]
    assert (head.layer, head.n_layers) == (None, None)
    assert head.depth_note == (
        "the model has 2 containers (decoder.layers, encoder); say which with `layers: '<regex with one group>'`"
    )


def test_without_a_container_there_is_no_depth():
    site = sites(Net(fc=nn.Linear(2, 2)))["fc.weight"]
    assert (site.layer, site.n_layers) == (None, None)
    assert "ModuleList or Sequential" in site.depth_note


def test_ten_layers_are_counted_in_order():
    found = depth(nn.Sequential(*(nn.Linear(2, 2) for _ in range(12))))
    assert [found[f"{i}.weight"] for i in range(12)] == [(i, 12) for i in range(12)]


def test_blocks_of_a_parameter_have_its_depth():
    site = sites(nn.ModuleList([nn.Linear(2, 2), nn.LSTM(2, 2)]))["1.weight_ih_l0"]
    assert {(b.layer, b.n_layers) for b in (site, *site.blocks)} == {(1, 2)}


class Numbered(nn.Module):
    def __init__(self):
        super().__init__()
        for i in (2, 10, 1):
            self.add_module(f"layer{i}", nn.Linear(2, 2))
        self.head = nn.Linear(2, 2)


def test_layers_by_a_pattern():
    found = sites(Numbered(), layers=r"layer(\d+)\..*")
    assert {name: site.layer for name, site in found.items() if name.endswith("weight")} == {
        "layer1.weight": 0,
        "layer2.weight": 1,
        "layer10.weight": 2,
        "head.weight": None,
    }
    assert {site.n_layers for site in found.values()} == {3}
    assert found["head.weight"].depth_note == r"the pattern 'layer(\\d+)\\..*' of `layers` does not match the name"


def test_layers_by_a_pattern_of_letters_or_of_aliases_or_of_nothing():
    model = Net(a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    assert depth(model, layers=r"(\w)\..*") == {"a.weight": (0, 2), "b.weight": (1, 2)}
    assert depth(model, layers=r"x(\w)\..*") == {"a.weight": (None, None), "b.weight": (None, None)}
    assert depth(model, layers=r"(?:a|b(x)?)\..*") == {"a.weight": (None, None), "b.weight": (None, None)}
    tied = Net(a=model.a, layers=nn.ModuleList([model.a, model.b]))
    assert depth(tied, layers=r"layers\.(\d)\..*") == {"a.weight": (0, 2), "layers.1.weight": (1, 2)}


def test_a_pattern_cannot_hang_the_program():
    model = Net(**{"a" * 60: nn.Linear(2, 2)})
    start = time.monotonic()
    (text,) = problems(model, layers=r"(?:(a|aa)+)+\1x")
    assert time.monotonic() - start < 10
    assert text.startswith("layers: the pattern")
    assert "took more than 1 s" in text


# --- what cannot be initialised ----------------------------------------------------------------------------------------------


def test_lazy_parameters_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    remedy = "\n  -> run the model once on an example input, so that its lazy modules know their sizes"
    assert problems(model) == [f"0.{name}: the parameter is lazy and has no shape yet{remedy}" for name in ("weight", "bias")]
    model(torch.zeros(1, 5))
    assert sites(model)["0.weight"].fan_in == 5


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x  # not what forward undoes


class Picky(nn.Module):
    def forward(self, x):
        return x

    def right_inverse(self, x):
        raise ValueError("only on Sundays")


@pytest.mark.parametrize(
    ("parametrise", "how"),
    [
        (parametrizations.weight_norm, "exact"),
        (parametrizations.spectral_norm, "transformed"),
        (parametrizations.orthogonal, "transformed"),
        (lambda m: parametrize.register_parametrization(m, "weight", nn.Identity()), None),
        (lambda m: parametrize.register_parametrization(m, "weight", Doubled()), "transformed"),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "Identity", "Doubled"],
)
def test_parametrised_weights_are_called_by_their_own_names(parametrise, how):
    if how is None:
        assert problems(parametrise(nn.Linear(3, 3))) == [
            "weight: its parametrisation Identity has no right_inverse\n"
            "  -> give the parametrisation a right_inverse, or initialise before it is registered"
        ]
        return
    model = parametrise(nn.Linear(4, 6))
    with untouched(model):
        found = sites(model)
    assert set(found) == {"weight", "bias"}
    assert found["weight"].effective == how
    assert found["weight"].module == "torch.nn.modules.linear.Linear"
    assert (found["bias"].fan_in, found["bias"].fan_out) == (4, 6)


def test_the_effective_weight_has_the_law():
    plain, model = nn.Linear(64, 64), parametrizations.weight_norm(nn.Linear(64, 64))
    initconf.initialize(plain, "he")
    initconf.initialize(model, "he").verify()
    torch.testing.assert_close(model.weight, plain.weight)


def test_what_is_transformed_is_written_and_not_verified_by_moments():
    model = parametrizations.spectral_norm(nn.Linear(64, 64))
    report = initconf.initialize(model, "he").verify()
    assert report.plan["weight"].effective == "transformed"
    assert model.parametrizations.weight.original.std().item() == pytest.approx(report.plan["weight"].std, rel=0.05)


def test_a_parametrisation_that_refuses_an_assignment(monkeypatch):
    model = nn.Linear(3, 3)
    with monkeypatch.context() as patched:  # torch tries it when it is registered
        patched.setattr(Picky, "right_inverse", lambda self, x: x)
        parametrize.register_parametrization(model, "weight", Picky())
    assert problems(model) == [
        "weight: its parametrisation Picky cannot be assigned to: only on Sundays\n  -> initialise before it is registered"
    ]


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_weights_behind_hooks_are_refused(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older of torch's two ways, deprecated and in use
        model = nn.Sequential(getattr(torch.nn.utils, name)(nn.Linear(3, 3)))
    kind = {"weight_norm": "WeightNorm", "spectral_norm": "SpectralNorm"}[name]
    assert problems(model) == [
        f"0: its weight is computed by {kind} before every forward pass\n  -> initialise before the normalisation is added"
    ]


def test_flat_parameters_are_refused():
    cls = type("FullyShardedDataParallel", (nn.Module,), {"__module__": FLAT.rpartition(".")[0]})
    inner = cls()
    inner._fsdp_wrapped_module = mlp()
    text = "FullyShardedDataParallel has flattened the parameters: their shapes and fans are gone"
    remedy = "\n  -> initialise before wrapping, or shard with torch.distributed.fsdp.fully_shard"
    assert problems(inner) == [f"the model: {text}{remedy}"]
    assert problems(nn.Sequential(nn.Linear(2, 2), inner)) == [f"1: {text}{remedy}"]


def test_scripted_modules_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and in use
        inner = torch.jit.script(nn.Linear(3, 3))
    text = "torch.jit has compiled the module: the class that gives its parameters their meaning is gone"
    assert problems(inner) == [f"the model: {text}\n  -> initialise before it is scripted or traced"]
    assert problems(nn.Sequential(nn.Linear(3, 3), inner)) == [f"1: {text}\n  -> initialise before it is scripted or traced"]


class Unmade(nn.Module):
    def __init__(self):
        pass


def test_a_module_without_its_constructor_is_refused():
    assert problems(Unmade()) == ["the model: its __init__ has not called super().__init__()"]


def test_all_that_is_wrong_is_said_at_once():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = torch.nn.utils.weight_norm(nn.Linear(3, 3))
        model = nn.Sequential(nn.LazyLinear(3, bias=False), hooked, nn.LazyConv1d(3, 3, bias=False))
    assert [text.partition(":")[0] for text in problems(model)] == ["0.weight", "1", "2.weight"]


# --- large models ------------------------------------------------------------------------------------------------------------


def test_a_survey_costs_the_same_per_parameter_however_large_the_model():
    """Counted, not timed: how often the layouts are asked."""

    def asked(n):
        from initconf import layouts

        count, find = 0, layouts.find

        def counting(*args):
            nonlocal count
            count += 1
            return find(*args)

        layouts.find = counting
        try:
            with torch.device("meta"):
                model = nn.ModuleList([block() for _ in range(n)])
            survey(model)
        finally:
            layouts.find = find
        return count

    assert asked(40) == 10 * asked(4)
