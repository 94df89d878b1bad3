"""Weights behind torch.nn.utils.parametrizations: what is written, what the module computes with, and what is refused."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import initconf
from initconf.errors import CompileError, InitConfError
from initconf.parametrized import assign, effective, parametrised
from initconf.survey import survey
from tests.small_models import untouched

weight_norm, spectral_norm, orthogonal = (
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    parametrizations.orthogonal,
)


@cache
def he():
    return initconf.load("he")


def draws(model):
    initconf.initialize(model, he())
    return model


# --- what is written ---------------------------------------------------------------------------------------------------------

OWNERS = {
    "Linear": (lambda: nn.Linear(24, 40), "weight"),
    "Conv2d": (lambda: nn.Conv2d(12, 20, 3, stride=2, groups=2), "weight"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(12, 20, 3, stride=2, groups=2), "weight"),
    "Embedding": (lambda: nn.Embedding(30, 16), "weight"),
    "LSTM, hh": (lambda: nn.LSTM(12, 10), "weight_hh_l0"),
    "LSTM, ih": (lambda: nn.LSTM(12, 10), "weight_ih_l0"),
    "GRUCell": (lambda: nn.GRUCell(12, 10), "weight_hh"),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(16, 2), "in_proj_weight"),
}
WAYS = {
    "weight_norm": (weight_norm, "exact"),
    "weight_norm of columns": (lambda m, name: weight_norm(m, name, dim=1), "exact"),
    "weight_norm as a whole": (lambda m, name: weight_norm(m, name, dim=None), "exact"),
    "spectral_norm": (spectral_norm, "transformed"),
    "orthogonal": (orthogonal, "transformed"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("owner", OWNERS)
def test_a_parametrised_weight_is_planned_like_a_plain_one(owner, way):
    make, name = OWNERS[owner]
    parametrise, how = WAYS[way]
    plain = {site.name: site for site in survey(make())}
    model = parametrise(make(), name)
    with untouched(model):
        found = {site.name: site for site in survey(model)}
    assert set(found) == set(plain)
    assert found[name].effective == how
    for other, site in found.items():
        expected = plain[other]
        assert (site.role, site.layout, site.shape) == (expected.role, expected.layout, expected.shape)
        for mine, theirs in zip((site, *site.blocks), (expected, *expected.blocks), strict=True):
            assert (mine.block, mine.fan_in, mine.fan_out) == (theirs.block, theirs.fan_in, theirs.fan_out)
    assert found[name].module == plain[name].module


@pytest.mark.parametrize("owner", OWNERS)
def test_behind_weight_norm_the_effective_weight_is_the_plain_one(owner):
    make, name = OWNERS[owner]
    plain, model = draws(make()), draws(weight_norm(make(), name))
    torch.testing.assert_close(getattr(model, name), getattr(plain, name))
    chain = parametrised(model)[name]
    torch.testing.assert_close(chain.original0, torch.norm_except_dim(getattr(plain, name), 2, 0))


def test_an_lstm_computes_with_what_was_written():
    """An LSTM keeps a list of its weights, which must not be the old ones."""
    plain, model, x = draws(nn.LSTM(6, 5)), draws(weight_norm(nn.LSTM(6, 5), "weight_hh_l0")), torch.randn(4, 2, 6)
    torch.testing.assert_close(model(x)[0], plain(x)[0])


def test_what_is_frozen_is_initialised_like_all_else():
    plain, model = draws(nn.Linear(8, 6)), weight_norm(nn.Linear(8, 6)).requires_grad_(False)
    torch.testing.assert_close(draws(model).weight, plain.weight)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_shared_parametrised_module_is_one_site():
    shared = weight_norm(nn.Linear(8, 8))
    model = nn.ModuleDict({"b": shared, "a": shared})
    plan = initconf.initialize(model, he()).verify().plan
    assert (plan["a.weight"].aliases, plan["a.weight"].effective) == (("b.weight",), "exact")
    torch.testing.assert_close(shared.weight, draws(nn.ModuleDict({"a": nn.Linear(8, 8)}))["a"].weight)


def test_a_bias_a_chain_and_half_precision():
    model = nn.Linear(8, 8, dtype=torch.bfloat16)
    weight_norm(model)
    spectral_norm(model)
    parametrize.register_parametrization(model, "bias", Doubled())
    plan = initconf.initialize(model, he()).plan
    assert {entry.name: (entry.effective, entry.dtype) for entry in plan} == {
        "weight": ("transformed", "bfloat16"),
        "bias": ("transformed", "bfloat16"),
    }


def test_a_weight_of_another_shape_than_its_original():
    class Mirrored(nn.Module):
        def forward(self, half):
            return torch.cat([half, -half])

        def right_inverse(self, whole):
            return whole[: len(whole) // 2]

    model = nn.Linear(4, 6)
    parametrize.register_parametrization(model, "weight", Mirrored(), unsafe=True)
    (weight, bias) = survey(model)[::-1] if survey(model)[0].name == "bias" else survey(model)
    assert (weight.shape, weight.fan_in, weight.fan_out, bias.fan_out) == ((6, 4), 4, 6, 6)
    upper, lower = draws(model).weight.detach().chunk(2)
    assert torch.equal(upper, -lower)
    torch.testing.assert_close(upper, draws(nn.Linear(4, 6)).weight[:3])


def test_an_unknown_module_is_not_made_to_compute_its_weight():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(6))

    model = spectral_norm(Dense())
    with untouched(model):  # a look at `model.weight` would change the vectors of the norm
        found = {site.name: site for site in survey(model)}
    assert (found["bias"].fan_in, found["bias"].fan_out) == (found["weight"].fan_in, found["weight"].fan_out) == (4, 6)


# --- the assignment ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, None])
def test_zeros_behind_weight_norm(dim):
    """0/0 is no weight: the length is 0, and the direction is one that has a gradient."""
    model = weight_norm(nn.Linear(4, 6), dim=dim)
    chain = parametrised(model)["weight"]
    assign(chain, torch.zeros(6, 4), 0)
    assert torch.equal(model.weight, torch.zeros(6, 4))
    model(torch.randn(3, 4)).sum().backward()
    assert chain.original0.grad.abs().min() > 0
    assert bool(chain.original1.grad.isfinite().all())


def test_a_row_of_zeros_behind_weight_norm():
    model = weight_norm(nn.Embedding(5, 4, padding_idx=2))
    values = torch.randn(5, 4)
    values[2] = 0
    assign(parametrised(model)["weight"], values.clone(), 0)
    torch.testing.assert_close(model.weight, values)
    assert not model.weight[2].any()


@pytest.mark.parametrize("make", [lambda: nn.Linear(96, 128), lambda: nn.Conv2d(16, 32, 3)], ids=["Linear", "Conv2d"])
def test_spectral_norm_divides_by_the_norm_of_the_new_weight(make):
    """Its two vectors belong to the old weight: divided by u'Wv of those, the weight would be off by a factor of many."""
    model = spectral_norm(make()).eval()
    values = torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(1))
    norm = torch.linalg.matrix_norm(values.flatten(1), 2)
    model.weight = values  # torch's own assignment
    assert not 0.8 < torch.linalg.matrix_norm(model.weight.detach().flatten(1), 2) < 1.25
    assign(parametrised(model)["weight"], values, 0)
    torch.testing.assert_close(model.weight.detach(), values / norm, rtol=0.1, atol=0.0)


@pytest.mark.parametrize("parametrise", [weight_norm, spectral_norm, orthogonal])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)], ids=str)
def test_an_assignment_depends_on_its_seed_alone(parametrise, shape):
    """orthogonal completes a rectangular matrix at random, spectral_norm begins with random vectors."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(7)
        model = parametrise(nn.Linear(*shape[::-1]))
        torch.manual_seed(seed)  # must not matter
        with untouched():
            assign(parametrised(model)["weight"], torch.arange(float(shape[0] * shape[1])).view(shape).sin(), 3)
        made.append({**model.state_dict(), "weight": model.eval().weight.detach()})
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_a_spectral_norm_behind_a_weight_norm():
    model = nn.Linear(24, 40)
    weight_norm(model)
    spectral_norm(model)
    values = torch.randn(40, 24, generator=torch.Generator().manual_seed(2))
    assign(parametrised(model)["weight"], values.clone(), 0)
    torch.testing.assert_close(model.eval().weight.detach(), values / torch.linalg.matrix_norm(values, 2), rtol=0.1, atol=0.0)


def test_zeros_behind_spectral_norm_are_refused():
    chain = parametrised(spectral_norm(nn.Linear(4, 4)))["weight"]
    with pytest.raises(InitConfError) as caught:
        assign(copy.deepcopy(chain), torch.zeros(4, 4), 0)
    assert str(caught.value) == (
        "its parametrisation _SpectralNorm divides by zero for these values\n"
        "  -> give it an initializer whose values are not all zero"
    )
    assign(chain, torch.full((4, 4), torch.inf), 0)  # what was not finite before is nobody's fault


def test_the_effective_weight_leaves_the_module_alone():
    for parametrise in (weight_norm, spectral_norm, orthogonal):
        model = parametrise(nn.Linear(6, 6))
        with untouched(model):
            weight = effective(parametrised(model)["weight"])
        assert not weight.requires_grad
        assert weight.shape == (6, 6)


# --- from the spec to the module ---------------------------------------------------------------------------------------------

EVERYTHING = {"unmatched": "keep"}


@pytest.mark.parametrize("parametrise", [weight_norm, spectral_norm, orthogonal])
def test_an_initialisation_depends_on_the_spec_alone(parametrise):
    made = []
    for seed in (1, 2):
        torch.manual_seed(7)
        model = parametrise(nn.Linear(4, 6))
        torch.manual_seed(seed)  # must not matter
        with untouched():
            initconf.initialize(model, "he", seed=0)
        made.append({**model.state_dict(), "weight": model.eval().weight.detach()})
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_zeros_and_padding_rows_of_a_plan():
    model = weight_norm(nn.Linear(4, 6))
    initconf.initialize(model, {"initializer": "zeros", **EVERYTHING}).verify()
    assert not model.weight.any()
    table = weight_norm(nn.Embedding(5, 4, padding_idx=2))
    initconf.initialize(table, {"rules": {"e": {"role": "embedding", "initializer": {"name": "normal", "std": 1.0}}}}).verify()
    assert [bool(row.any()) for row in table.weight] == [True, True, False, True, True]


def test_zeros_behind_spectral_norm_are_refused_before_anything_is_written():
    model = nn.Sequential(spectral_norm(nn.Linear(4, 4)), spectral_norm(nn.Linear(4, 4)), orthogonal(nn.Linear(4, 4)))
    with untouched(model), pytest.raises(CompileError) as caught:
        initconf.compile(model, {"initializer": "zeros", **EVERYTHING})
    assert str(caught.value) == (
        "init.initializer  (python): 0.weight, 1.weight: zeros cannot serve it: its parametrisation _SpectralNorm "
        "divides by zero for these values\n  -> give it an initializer whose values are not all zero"
    )
    initconf.initialize(model, {"initializer": "ones", **EVERYTHING})


@pytest.mark.parametrize("owner", OWNERS)
def test_module_default_behind_a_parametrisation(owner):
    """The module's reset would set the weight that is computed, which is gone at once."""
    make, name = OWNERS[owner]
    spec = {"rules": {"it": {"glob": "*", "initializer": "module_default"}}}
    plain, model = make(), weight_norm(make(), name)
    initconf.initialize(plain, spec)
    initconf.initialize(model, spec).verify()
    made = dict(named(model))
    for other, values in plain.named_parameters():
        if isinstance(plain, (nn.LSTM, nn.GRUCell)):  # whose reset goes through its parameters in turn
            assert 0 < made[other].abs().max() <= 1 / 10**0.5
        else:
            torch.testing.assert_close(made[other], values)


def named(model):
    for path, module in model.named_modules():
        for attribute in (*module._parameters, *parametrised(module)):
            yield f"{path}.{attribute}".lstrip("."), getattr(module, attribute)


def test_the_owner_of_its_other_parameters_is_the_module_s_own_class():
    model = nn.Sequential(weight_norm(nn.MultiheadAttention(8, 2), "in_proj_weight"))
    assert {site.module for site in survey(model)} == {
        "torch.nn.modules.activation.MultiheadAttention",
        "torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
    }
    (place,) = next(site for site in survey(model) if site.name == "0.out_proj.weight").places
    assert place.inside[1][0] == "torch.nn.modules.activation.MultiheadAttention"


# --- what is refused ---------------------------------------------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


class OneWay(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T


class Moody(nn.Module):
    """Does what it should, until `wrong` says what it raises instead."""

    wrong = ""

    def forward(self, x):
        if self.wrong == "forward":
            raise ValueError("not today")
        return x

    def right_inverse(self, x):
        if self.wrong == "right_inverse":
            raise ValueError("only on Sundays")
        return x[:1] if self.wrong == "shape" else x


class Keeping(nn.Module):
    """Keeps what it computed, with its gradient: such a tensor cannot be copied."""

    def forward(self, x):
        self.kept = 2 * x
        return self.kept

    def right_inverse(self, x):
        return x / 2


def moody(wrong):
    step = Moody()
    model = nn.Linear(3, 3)
    parametrize.register_parametrization(model, "weight", step)
    step.wrong = wrong
    return model


def kept():
    model = nn.Linear(3, 3)
    parametrize.register_parametrization(model, "weight", Keeping())
    model.weight  # noqa: B018 - which computes it
    return model


def one_way():
    model = nn.Linear(3, 3)
    parametrize.register_parametrization(model, "weight", Doubled())
    parametrize.register_parametrization(model, "weight", OneWay())
    return model


BEFORE = "\n  -> initialise before it is registered"
REFUSED = {
    "one of two without": (
        one_way,
        "has no right_inverse\n  -> give the parametrisation a right_inverse, or initialise before it is registered",
        "OneWay",
    ),
    "forward fails": (lambda: moody("forward"), f"cannot be computed: not today{BEFORE}", "Moody"),
    "right_inverse fails": (lambda: moody("right_inverse"), f"cannot be assigned to: only on Sundays{BEFORE}", "Moody"),
    "right_inverse of another shape": (
        lambda: moody("shape"),
        f"cannot be assigned to: of shape (3, 3) it makes (1, 3){BEFORE}",
        "Moody",
    ),
    "matrix_exp": (
        lambda: orthogonal(nn.Linear(3, 3), orthogonal_map="matrix_exp", use_trivialization=False),
        "cannot be assigned to: It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
        f"use_trivialization=False.{BEFORE}",
        "_Orthogonal",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_assigned_to_is_refused(row):
    make, text, names = REFUSED[row]
    with pytest.raises(CompileError) as caught:
        initconf.compile(make(), he())
    assert str(caught.value) == f"weight: its parametrisation {names} {text}"


def test_what_cannot_be_copied_is_refused_in_torch_s_words():
    with pytest.raises(CompileError) as caught:
        survey(kept())
    (problem,) = caught.value.problems
    assert (problem.path, problem.remedy) == ("weight", "initialise before it is registered")
    assert problem.text.startswith(
        "its parametrisation Keeping cannot be computed: Only Tensors created explicitly by the user"
    )


@pytest.mark.parametrize("shape", [(64, 64), (640, 64)], ids=str)
def test_parametrised_weights_do_not_depend_on_torch_s_threads(shape):
    made = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            layer = torch.nn.utils.parametrizations.orthogonal(nn.Linear(*shape))
            initconf.initialize(layer, "he")
            made.append([p.detach().clone() for p in (*layer.parameters(), *layer.buffers())])
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*made, strict=True):
        assert torch.equal(one, two)
