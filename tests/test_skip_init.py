"""Constructing without the random numbers of the parameters: what is left out, what is not, and how the two are told apart."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import pickle
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

import initconf
from initconf import skip_init
from initconf.errors import ApplyError, CompileError
from initconf.marks import is_skipped, mark
from tests.constructing import Drawn, built, compare, skipped
from tests.ranks import pretended
from tests.sharded_cases import fsdp
from tests.small_models import ZOO, mlp

ALL_NORMAL = {"rules": {"all": {"glob": "*", "initializer": {"name": "normal", "std": 1}}}}
ALL_KEPT = {"rules": {"all": {"glob": "*", "initializer": "keep"}}}


# --- constructors ----------------------------------------------------------------------------------------------------------


class Own(nn.Module):
    """A module whose constructor is the function that is given."""

    def __init__(self, construct):
        super().__init__()
        construct(self)


def own(construct):
    return functools.wraps(construct)(lambda: Own(construct))


def _truncated(tensor, std):
    """As timm has it, and torch had it up to 2.12."""
    tensor.uniform_(-0.9545, 0.9545)
    tensor.erfinv_()
    tensor.mul_(std * math.sqrt(2.0))
    tensor.add_(0.0)
    return tensor.clamp_(min=-2 * std, max=2 * std)


def initialised(init, *shape, **settings):
    def construct(self):
        self.weight = nn.Parameter(torch.empty(*shape))
        with torch.no_grad():
            init(self.weight, **settings)

    return own(construct)


@own
def by_data(self):
    self.weight, self.v = nn.Parameter(torch.empty(4, 6)), nn.Parameter(torch.empty(4, 6))
    self.weight.data.normal_(0, 0.02)
    nn.init.xavier_uniform_(self.v.data)


@own
def by_view(self):
    self.qkv = nn.Linear(6, 18, bias=False)
    for part in self.qkv.weight.chunk(3):
        nn.init.xavier_uniform_(part)
    self.stored_transposed = nn.Parameter(torch.empty(5, 7))
    nn.init.kaiming_normal_(self.stored_transposed.T)


@own
def in_one_memory(self):
    memory = torch.empty(60)
    self.a, self.b = nn.Parameter(memory[:24].view(4, 6)), nn.Parameter(memory[24:].view(6, 6))
    memory.normal_()


@own
def scaled_afterwards(self):
    self.out = nn.Linear(6, 6)
    with torch.no_grad():
        self.out.weight.div_(math.sqrt(12)).mul_(torch.ones(6))
        self.out.bias.zero_()


@own
def some_rows_set(self):
    self.emb = nn.Embedding(9, 6, padding_idx=0)
    self.rnn = nn.LSTM(3, 6)
    with torch.no_grad():
        self.rnn.bias_ih_l0[6:12] = 1.0


@own
def copied(self):
    layer = nn.Linear(6, 6)
    self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(3))
    self.teacher = copy.deepcopy(self.layers)
    self.again = nn.Parameter(layer.weight.detach().clone())
    self.into = nn.Linear(6, 6)
    self.into.load_state_dict(layer.state_dict())


@own
def converted(self):
    self.half = nn.Linear(6, 6).half()
    self.both = nn.Linear(6, 6).double().to(torch.bfloat16)
    self.conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    self.complex = nn.Linear(6, 6, dtype=torch.complex64)


@own
def state_space(self):
    """As Mamba."""
    self.A_log = nn.Parameter(torch.log(torch.arange(1, 7).float()).repeat(4, 1))
    self.D = nn.Parameter(torch.ones(4))
    self.dt_proj = nn.Linear(3, 4)
    nn.init.uniform_(self.dt_proj.weight, -0.1, 0.1)
    steps = torch.exp(torch.rand(4) * 4 - 6)
    with torch.no_grad():
        self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))


@own
def from_random_tensors(self):
    self.cls = nn.Parameter(torch.randn(1, 6) * 0.02)
    self.mask = nn.Parameter(torch.empty(6).normal_())
    self.order = nn.Parameter(torch.randperm(6), requires_grad=False)


@own
def random_buffers(self):
    self.register_buffer("features", torch.randn(4, 6))
    self.register_buffer("phase", torch.empty(4).uniform_(0, 6))
    self.register_buffer("table", torch.arange(5))
    self.norm, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 6)
    self.register_buffer("average", self.fc.weight.data.clone())


@own
def weight_normed(self):
    self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))


@own
def spectral_normed(self):
    self.fc = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))


@own
def on_default_dtype(self):
    torch.set_default_dtype(torch.float64)
    try:
        self.fc, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
    finally:
        torch.set_default_dtype(torch.float32)


@own
def on_a_device(self):
    with torch.device("cpu"):
        self.fc = nn.Linear(6, 6)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
    with torch.device("meta"):
        self.nowhere = nn.Linear(6, 6)
    self.materialised = nn.utils.skip_init(nn.Linear, 6, 6, bias=False)
    nn.init.ones_(self.materialised.weight)
    self.nowhere = None


NOTHING_DRAWN = {
    **ZOO,
    "conv_transposed": lambda: nn.ConvTranspose3d(4, 6, (2, 3, 2), groups=2),
    "bilinear": lambda: nn.Bilinear(4, 5, 6),
    "gru": lambda: nn.GRU(5, 6, num_layers=2, bidirectional=True),
    "transformer": lambda: nn.Transformer(8, 2, 2, 2, 16, batch_first=True),
    "embedding_bag": lambda: nn.EmbeddingBag(9, 5),
    "orthogonal_": initialised(nn.init.orthogonal_, 6, 9),
    "sparse_": initialised(nn.init.sparse_, 9, 5, sparsity=0.5),
    "trunc_normal_": initialised(nn.init.trunc_normal_, 9, 5, std=0.02),
    "trunc_normal_far": initialised(nn.init.trunc_normal_, 9, 5, mean=3.0, a=4.5, b=9.0),
    "trunc_normal_of_timm": initialised(_truncated, 9, 5, std=0.02),
    "xavier_normal_": initialised(nn.init.xavier_normal_, 9, 5),
    "exponential_": initialised(torch.Tensor.exponential_, 9, 5),
    "bernoulli_": initialised(torch.Tensor.bernoulli_, 9, 5),
    **{
        make.__name__: make
        for make in (
            by_data,
            by_view,
            in_one_memory,
            scaled_afterwards,
            some_rows_set,
            copied,
            converted,
            on_default_dtype,
            on_a_device,
        )
    },
}
SOMETHING_DRAWN = {
    "state_space": (state_space, ["rand"]),
    "from_random_tensors": (from_random_tensors, ["randn", "normal_", "randperm"]),
    "random_buffers": (random_buffers, ["randn", "uniform_", "uniform_"]),  # the last for the copy that is a buffer
    "weight_normed": (weight_normed, ["uniform_"]),
    "spectral_normed": (spectral_normed, ["uniform_", "normal_", "normal_"]),
}
CONSTRUCTORS = {name: (make, []) for name, make in NOTHING_DRAWN.items()} | SOMETHING_DRAWN


ALL_BUT_WHOLE_NUMBERS = {
    "rules": ALL_NORMAL["rules"] | {"kept": {"glob": "order", "initializer": "keep", "optional": True}},
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name):
    make, expected = CONSTRUCTORS[name]
    model, eager, drawn, random = compare(make)
    assert sorted(drawn) == sorted(expected)
    if not expected:
        assert skipped(model) == random & {name for name, _ in model.named_parameters()}
    initconf.initialize(eager, ALL_BUT_WHOLE_NUMBERS)
    initconf.initialize(model, ALL_BUT_WHOLE_NUMBERS).verify()
    assert skipped(model) == set()
    written = dict(model.named_parameters())
    assert all(torch.equal(written[n], p) for n, p in eager.named_parameters() if n != "order")


def test_a_lazy_module_stays_lazy():
    model, drawn = built(lambda: nn.LazyLinear(3))
    assert drawn == []
    torch.manual_seed(0)
    model(torch.ones(2, 4))
    torch.manual_seed(0)
    assert torch.equal(model.weight, nn.Linear(4, 3).weight)


def test_on_meta_nothing_changes():
    for outer, inner in ((skip_init(), torch.device("meta")), (torch.device("meta"), skip_init())):
        with outer, inner:
            model, noise = nn.Linear(3, 3), torch.rand(4)
        assert model.weight.is_meta
        assert noise.is_meta
        with pytest.raises(CompileError, match="a parameter on meta has no values to keep"):
            initconf.compile(model, ALL_KEPT)


# --- what the constructor reads is drawn -----------------------------------------------------------------------------------


def test_what_is_read_is_drawn_first():
    @own
    def construct(self):
        self.fc = nn.Linear(50, 50)
        self.scale = self.fc.weight.norm().item()
        self.g = nn.Parameter(self.fc.bias.abs())

    model, drawn = built(construct)
    assert drawn == ["uniform_", "uniform_"]
    assert skipped(model) == set()
    assert model.scale == model.fc.weight.norm().item()
    assert torch.equal(model.g, model.fc.bias.abs())
    assert 0.1 < model.fc.weight.abs().max() <= 1 / math.sqrt(50)


READS = {
    "tolist": lambda t: torch.tensor(t.tolist()),
    "numpy": lambda t: torch.from_numpy(t.detach().numpy()),
    "asarray": lambda t: torch.from_numpy(t.detach().__array__()),
    "dlpack": lambda t: torch.from_dlpack(t.detach()),
    "add": lambda t: t + 0,
    "stack": lambda t: torch.stack([t, t])[0],
    "into a real tensor": lambda t: torch.zeros(t.shape).add_(t.detach()),
    "copied": lambda t: torch.zeros(t.shape).copy_(t.detach()),
    "deepcopy": lambda t: copy.deepcopy(t.data),
    "to": lambda t: t.data.double().float(),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    ("init", "holds"),
    [
        (nn.init.orthogonal_, lambda w: torch.allclose(w @ w.T, torch.eye(6), atol=1e-5)),
        (lambda w: nn.init.trunc_normal_(w, 5.0, 0.1, 4.9, 5.1), lambda w: bool(((w >= 4.9) & (w <= 5.1)).all())),
        (lambda w: nn.init.sparse_(w, 0.5, std=1.0), lambda w: bool(((w == 0).sum(0) == 3).all())),
        (lambda w: _truncated(w.data, 0.5), lambda w: 0.2 < w.abs().max() <= 1),
        (lambda w: nn.init.uniform_(w.data[1:]).add_(3), lambda w: not w[0].any() and bool((w[1:] >= 3).all())),
        (lambda w: nn.init.ones_(nn.init.normal_(w).data[2]), lambda w: bool((w[2] == 1).all()) and 0.5 < w.std() < 2),
        (lambda w: nn.init.normal_(w).data.mul_(torch.zeros(9)), lambda w: not w.any()),
    ],
    ids=["orthogonal", "truncated", "sparse", "timm", "part", "row", "times zero"],
)
def test_reads(name, init, holds):
    """Whatever was put off is done in order, also by way of a copy that was taken before."""

    @own
    def construct(self):
        self.weight = nn.Parameter(torch.zeros(6, 9))
        init(self.weight)
        self.seen = READS[name](self.weight).detach()

    model, _ = built(construct)
    assert holds(model.seen)
    if not is_skipped(model.weight):
        assert holds(model.weight.detach())


def test_what_is_overwritten_as_a_whole_is_never_drawn():
    @own
    def construct(self):
        self.a, self.b, self.c = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        nn.init.eye_(self.a.weight)
        self.b.load_state_dict({"weight": torch.full((5, 5), 2.0), "bias": torch.zeros(5)})
        nn.init.constant_(self.c.weight, 3)

    model, drawn = built(construct)
    assert drawn == []
    assert skipped(model) == {"a.bias", "c.bias"}
    assert torch.equal(model.a.weight, torch.eye(5))
    assert bool((model.b.weight == 2).all())
    assert bool((model.c.weight == 3).all())


def test_a_buffer_in_the_memory_of_a_parameter_is_drawn():
    @own
    def construct(self):
        memory = torch.zeros(40)
        self.weight = nn.Parameter(memory[:20].view(4, 5))
        self.register_buffer("noise", memory[20:])
        memory.uniform_(1, 2)

    model, drawn = built(construct)
    assert drawn == ["uniform_"]
    assert bool((model.noise >= 1).all())
    assert bool((model.weight >= 1).all())


def test_a_part_that_no_mark_would_show_is_drawn():
    @own
    def construct(self):
        self.weight = nn.Parameter(torch.zeros(40))
        self.weight.data[5:9].uniform_(1, 2)

    model, drawn = built(construct)
    assert drawn == ["uniform_"]
    assert model.weight.nonzero().flatten().tolist() == [5, 6, 7, 8]


# --- what is written unseen ------------------------------------------------------------------------------------------------


def elsewhere(write, *given):
    """Another thread, which skip_init does not see."""
    thread = threading.Thread(target=write, args=given)
    thread.start()
    thread.join()


def and_left(weight):
    pass


def and_read(weight):
    assert weight.isfinite().all()


def and_taken_out(weight):
    assert math.isfinite(sum(map(sum, weight.tolist())))


def and_copied(weight):
    return nn.ParameterList([weight.detach().clone()])[0]


@pytest.mark.parametrize("then", [and_left, and_read, and_taken_out, and_copied])
def test_what_another_thread_initialises_stays(then):
    expected = nn.Linear(64, 64)
    initconf.initialize(expected, "he")
    with skip_init():
        model = nn.Linear(64, 64)
        elsewhere(initconf.initialize, model, "he")
        made = then(model.weight)
    assert torch.equal(model.weight, expected.weight)
    assert made is None or torch.equal(made, expected.weight)
    assert torch.equal(model.bias, expected.bias)


def doubled(weight):
    weight.mul_(2)


def first_row_zeroed(weight):
    weight[0].zero_()


def zeros_times(weight):
    torch.mul(weight, 0, out=weight)


@pytest.mark.parametrize("change", [doubled, first_row_zeroed, zeros_times])
def test_later_steps_are_for_what_was_written_unseen(change):
    expected = nn.Linear(64, 64)
    initconf.initialize(expected, "he")
    with skip_init():
        model = nn.Linear(64, 64)
        elsewhere(initconf.initialize, model, "he")
        with torch.no_grad():
            change(model.weight)
    with torch.no_grad():
        change(expected.weight)
    assert torch.equal(model.weight, expected.weight)


def test_a_part_that_is_drawn_over_what_was_written_unseen():
    expected = nn.Linear(64, 64)
    initconf.initialize(expected, "he")
    with skip_init():
        model = nn.Linear(64, 64)
        elsewhere(initconf.initialize, model, "he")
        nn.init.uniform_(model.weight.data[32:], 5, 6)
        weight = model.weight + 0
    assert torch.equal(weight[:32], expected.weight[:32])
    assert bool(((weight[32:] >= 5) & (weight[32:] <= 6)).all())


def test_marks_upon_marks_are_not_taken_for_values():
    @own
    def construct(self):
        self.weight = nn.Parameter(torch.zeros(3))
        nn.init.normal_(self.weight)
        nn.init.uniform_(self.weight.data[1:], 5, 6)
        self.seen = self.weight.detach().clone()

    model, drawn = built(construct)
    assert "normal_" in drawn
    assert bool((model.seen[1:] >= 5).all())
    assert abs(float(model.seen[0])) < 5


def test_a_copy_that_is_written_unseen():
    with skip_init():
        model = copied()
        elsewhere(initconf.initialize, model, ALL_NORMAL)
        seen = [p.detach().clone() for p in model.parameters()]
    initconf.initialize(expected := copied(), ALL_NORMAL)
    for weights in (model.parameters(), seen):
        assert all(torch.equal(a, b) for a, b in zip(weights, expected.parameters(), strict=True))


def test_one_of_two_parameters_in_one_memory():
    with skip_init():
        model = in_one_memory()
        elsewhere(lambda: nn.init.zeros_(model.a.data))
        assert model.b.isfinite().all()
    assert not model.a.any()
    assert 0.5 < model.b.std() < 2


def test_rows_that_the_constructor_sets_hide_no_other():
    """Where it overwrites all marks itself, what is left is drawn."""

    @own
    def construct(self):
        self.weight = nn.Parameter(torch.empty(4, 6))
        nn.init.uniform_(self.weight, 1, 2)
        with torch.no_grad():
            for row in (0, 1, 3):
                self.weight[row].zero_()
        self.seen = self.weight.detach().clone()

    model, drawn = built(construct)
    assert drawn == ["uniform_", "uniform_"]
    for weight in (model.weight, model.seen):
        assert bool((weight[2] >= 1).all())
        assert not weight[[0, 1, 3]].any()


# --- what torch refuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "init",
    [
        lambda w: w.normal_(0, -1),
        lambda w: w.uniform_(2, 1),
        lambda w: w.exponential_(-1),
        lambda w: w.bernoulli_(2.0),
        lambda w: w.random_(5, 2),
        lambda w: nn.init.normal_(w, std=-1),
        lambda w: nn.init.uniform_(w, 2, 1),
    ],
    ids=["normal_", "uniform_", "exponential_", "bernoulli_", "random_", "init.normal_", "init.uniform_"],
)
def test_arguments_that_torch_refuses_are_refused(init):
    said = []
    for inside in (False, True, True):
        with skip_init() if inside else contextlib.nullcontext(), pytest.raises(RuntimeError) as caught:
            init(nn.Linear(3, 3).weight.data)
        said.append(str(caught.value).splitlines()[0])
    assert said[0] == said[1] == said[2]


def test_what_torch_s_own_skip_init_leaves_is_marked():
    model, drawn = built(lambda: nn.utils.skip_init(nn.Linear, 6, 5))
    assert drawn == []
    assert skipped(model) == {"weight", "bias"}
    with pytest.raises(CompileError, match="weight, bias: keep cannot serve it: its values were skipped by skip_init"):
        initconf.compile(model, ALL_KEPT)
    norm, _ = built(lambda: nn.LayerNorm(6, device="meta").to_empty(device="cpu").requires_grad_(False))
    assert skipped(norm) == {"weight", "bias"}
    norm.reset_parameters()
    assert skipped(norm) == set()


def test_a_module_that_is_hidden_from_the_model_shows_it():
    @own
    def construct(self):
        self.fc, self.hidden = nn.Linear(6, 6), [nn.Linear(6, 6)]

    model, _ = built(construct)
    initconf.initialize(model, "he")
    assert skipped(model) == set()
    assert skipped(model.hidden[0]) == {"weight", "bias"}
    initconf.initialize(model.hidden[0], "he")
    assert skipped(model.hidden[0]) == set()


# --- random numbers --------------------------------------------------------------------------------------------------------


def test_random_buffers_follow_the_seed_of_torch():
    def features(seed):
        torch.manual_seed(seed)
        return built(random_buffers)[0].features

    assert torch.equal(features(0), features(0))
    assert not torch.equal(features(0), features(1))


def test_the_next_context_draws_the_same_until_torch_s_state_moves_on():
    first, second = built(random_buffers)[0].features, built(random_buffers)[0].features
    torch.rand(1)
    assert torch.equal(first, second)
    assert not torch.equal(first, built(random_buffers)[0].features)


def test_a_constructor_that_seeds_torch_gets_its_numbers():
    @own
    def construct(self):
        self.register_buffer("first", torch.randn(4))
        with torch.random.fork_rng():
            torch.manual_seed(42)
            self.register_buffer("fixed", torch.randn(4))
        self.register_buffer("second", torch.randn(4))
        self.register_buffer("given", torch.randn(4, generator=torch.Generator().manual_seed(7)))

    model, _ = built(construct)
    eager = construct()
    assert torch.equal(model.fixed, eager.fixed)
    assert torch.equal(model.given, eager.given)
    assert not torch.equal(model.first, model.second)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(9),
        lambda: torch.rand(9),
        lambda: torch.randint(9, (9,)),
        lambda: torch.randint(2, 9, (9,)),
        lambda: torch.randperm(9),
        lambda: torch.normal(0.0, 1.0, (9,)),
        lambda: torch.normal(torch.zeros(9), 1.0),
        lambda: torch.bernoulli(torch.full((9,), 0.5)),
        lambda: torch.poisson(torch.full((9,), 4.0)),
        lambda: torch.multinomial(torch.ones(9), 5),
        lambda: torch.rand_like(torch.ones(9)),
        lambda: torch.randn_like(torch.ones(9)),
        lambda: torch.randint_like(torch.ones(9), 9),
        lambda: torch.randint_like(torch.ones(9), 3, 9),
        lambda: torch.empty(9).exponential_(),
        lambda: torch.empty(9).random_(9),
        lambda: nn.functional.dropout(torch.ones(9)),
        lambda: nn.functional.rrelu(-torch.ones(9), training=True),
        lambda: nn.functional.gumbel_softmax(torch.ones(9), dim=0),
        lambda: torch.distributions.Gamma(2.0, 1.0).sample((9,)),
        lambda: nn.init.normal_(torch.empty(9)),
        lambda: nn.init.trunc_normal_(torch.empty(9)),
        lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    ],
    ids=(
        "randn rand randint low_randint randperm normal normal_of_tensors bernoulli poisson multinomial rand_like randn_like "
        "randint_like low_randint_like exponential_ random_ dropout rrelu gumbel gamma init_normal_ init_trunc_normal_ "
        "init_orthogonal_"
    ).split(),
)
def test_random_tensors_are_those_of_torch_and_leave_its_state_alone(draw):
    torch.manual_seed(5)
    made, names = built(draw)
    assert names
    torch.manual_seed(5)
    assert torch.equal(made, draw())


# --- the context -----------------------------------------------------------------------------------------------------------


def test_nested_contexts_are_one():
    with skip_init():
        with skip_init():
            first = nn.Linear(6, 6)
        second = nn.Linear(6, 6)
        assert first.weight.shape == second.weight.shape
    assert skipped(first) == skipped(second) == {"weight", "bias"}
    assert skipped(nn.Linear(6, 6)) == set()


def test_a_decorated_function_constructs_without():
    @skip_init()
    def build(size):
        return nn.Linear(size, size)

    assert skipped(build(6)) == {"weight", "bias"}
    assert skipped(build(7)) == {"weight", "bias"}
    assert skipped(nn.Linear(6, 6)) == set()


@own
def buffer_of_a_parameter(self):
    self.fc = nn.Linear(6, 6)
    self.register_buffer("average", self.fc.weight.data.clone())


def test_after_an_exception_all_is_as_before():
    kept = []
    state = torch.get_rng_state()

    @skip_init()
    def fail():
        kept.append(buffer_of_a_parameter())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(state, torch.get_rng_state())
    assert bool(kept[0].average.isfinite().all())
    assert skipped(kept[0]) == {"fc.weight", "fc.bias"}
    assert skipped(nn.Linear(6, 6)) == set()
    assert not torch.equal(state, torch.get_rng_state())


def test_other_threads_construct_as_ever():
    torch.manual_seed(3)
    expected = [nn.Linear(20, 20).weight for _ in range(50)]
    inside, done = threading.Event(), threading.Event()
    found = []

    def elsewhere():
        inside.wait(60)
        torch.manual_seed(3)
        found.extend(nn.Linear(20, 20).weight for _ in range(50))
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with skip_init():
        inside.set()
        mine = [nn.Linear(20, 20) for _ in range(50)]
        assert done.wait(60)
        mine += [nn.Linear(20, 20) for _ in range(50)]
    thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(skipped(model) == {"weight", "bias"} for model in mine)


def test_threads_may_skip_at_the_same_time():
    together = threading.Barrier(3)
    made = {}

    def construct(number):
        together.wait(60)
        with skip_init():
            together.wait(60)
            made[number] = [nn.Linear(20, 20) for _ in range(30)]
            together.wait(60)

    threads = [threading.Thread(target=construct, args=(n,)) for n in range(3)]
    state = torch.get_rng_state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(state, torch.get_rng_state())
    assert all(skipped(model) == {"weight", "bias"} for models in made.values() for model in models)


def test_the_compiler_of_torch_is_neither_loaded_nor_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # to import it is an error
    with skip_init():
        nn.init.trunc_normal_(nn.Linear(3, 3).weight)
        assert not is_in_torch_dispatch_mode()


# --- what has no values is not kept ----------------------------------------------------------------------------------------

REMEDY = "  -> give it an initializer that writes values, or load them first"


@pytest.mark.parametrize(
    ("spec", "path", "initializer", "named"),
    [
        (ALL_KEPT, "init.rules.all.initializer", "keep", "weight, bias"),
        ({"initializer": "keep", "unmatched": "keep"}, "init.initializer", "keep", "weight, bias"),
        ({"initializer": "zeros", "unmatched": "keep"}, "init.unmatched", "keep", "bias"),
    ],
    ids=["rule", "spec", "unmatched"],
)
def test_keep(spec, path, initializer, named):
    model, _ = built(lambda: nn.Linear(6, 5))
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, spec)
    assert f"{path}  (python): {named}: {initializer} cannot serve it: its values were skipped by skip_init\n{REMEDY}" in str(
        caught.value
    )
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.copy_(torch.arange(5))
    initconf.initialize(model, spec)
    assert model.bias.tolist() == [0, 1, 2, 3, 4]


def test_module_default_that_would_keep():
    model, _ = built(initialised(nn.init.normal_, 4, 4))
    spec = {"initializer": {"name": "module_default", "otherwise": "keep"}, "unmatched": "keep"}
    with pytest.raises(CompileError, match=r"weight: module_default cannot serve it: its values were skipped by skip_init"):
        initconf.compile(model, spec)


def test_a_block_cannot_be_kept_either():
    model, _ = built(lambda: nn.LSTM(3, 4))
    rules = ALL_NORMAL["rules"] | {"f": {"block": "f", "match": "bias_ih_l0", "initializer": "keep"}}
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, {"rules": rules})
    assert str(caught.value) == (
        "init.rules.f.initializer  (python): bias_ih_l0[f]: keep cannot serve it: its values were skipped by skip_init\n"
        f"{REMEDY}"
    )


def test_a_weight_that_is_parametrised_later():
    model, _ = built(lambda: nn.Linear(6, 5))
    nn.utils.parametrizations.weight_norm(model)
    with pytest.raises(CompileError, match=r"weight, bias: keep cannot serve it: its values were skipped by skip_init"):
        initconf.compile(model, ALL_KEPT)


def test_a_plan_that_keeps_is_not_applied():
    model, _ = built(lambda: nn.Linear(6, 5))
    with pytest.raises(ApplyError) as caught:
        initconf.apply(model, initconf.compile(nn.Linear(6, 5), ALL_KEPT))
    assert [str(problem) for problem in caught.value.problems] == [
        f"{name}: its values were skipped by skip_init\n  -> compile the plan for this model" for name in ("weight", "bias")
    ]


def test_one_of_many_alike_is_found():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(9)))
    with torch.no_grad():
        mark(model[5].weight)
    with pytest.raises(CompileError, match=r"\(python\): 5.weight: keep cannot serve it"):
        initconf.compile(model, ALL_KEPT)


def test_what_is_left_unwritten_is_told(caplog):
    model, _ = built(mlp)
    report = initconf.initialize(model, "he", only="head.*")
    assert report.notes == ("body.0.weight, body.0.bias, body.2.weight and 1 more: no values yet, skip_init left them out",)
    assert report.notes[0] in caplog.messages
    names = ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"]
    model.load_state_dict({n: torch.zeros_like(p) for n, p in model.named_parameters() if n in names}, strict=False)
    assert initconf.initialize(model, "he", skip=names).notes == ()


@pytest.mark.parametrize("scheme", ["he", {"defaults": ["he"], "nonlinearity": "auto"}, {"defaults": ["torch"]}], ids=str)
def test_initialize_inside(scheme):
    expected = mlp()
    initconf.initialize(expected, scheme)
    with Drawn() as drawn, skip_init():
        model, partly = mlp(), mlp()
        initconf.initialize(model, scheme).verify()
        initconf.initialize(partly, scheme, only="head.*")
        late = mlp()
    assert "uniform_" not in drawn.names
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert skipped(partly) == {name for name, _ in partly.named_parameters()} - {"head.weight", "head.bias"}
    assert skipped(late) == {name for name, _ in late.named_parameters()}


# --- the marks -------------------------------------------------------------------------------------------------------------

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
LAYOUTS = {
    "contiguous": lambda n: torch.zeros(n),
    "matrix": lambda n: torch.zeros(n, 3),
    "transposed": lambda n: torch.zeros(3, n).t(),
    "every other": lambda n: torch.zeros(2 * n)[::2],
    "part": lambda n: torch.zeros(n + 7)[7:],
    "scalar": lambda n: torch.zeros(()),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_marks_are_found_and_go_when_written(layout, dtype):
    for n in (1, 2, 3, 4, 5, 6, 7, 50):
        tensor = LAYOUTS[layout](n).to(dtype)
        parameter = nn.Parameter(tensor)
        assert not is_skipped(parameter)
        mark(parameter)
        assert is_skipped(parameter)
        for goal in FLOATS:
            if goal.is_complex or not dtype.is_complex:
                assert is_skipped(parameter.detach().to(goal)), (n, goal)
        assert is_skipped(pickle.loads(pickle.dumps(parameter)))
        assert is_skipped(copy.deepcopy(parameter))
        with torch.no_grad():
            parameter.copy_(torch.ones_like(parameter))
        assert not is_skipped(parameter)


def test_marks_stay_within_the_tensor():
    base = torch.zeros(40)
    mark(base[10:30])
    assert not base[:10].any()
    assert not base[30:].any()


def test_marks_survive_a_change_of_the_memory_format_and_a_checkpoint():
    weight = torch.zeros(4, 6, 3, 3)
    mark(weight)
    assert is_skipped(weight.to(memory_format=torch.channels_last))
    assert is_skipped(weight.to(memory_format=torch.channels_last).contiguous())
    file = io.BytesIO()
    torch.save({"weight": weight}, file)
    file.seek(0)
    assert is_skipped(torch.load(file)["weight"])


@pytest.mark.parametrize("axis", [0, 1])
def test_marks_survive_the_rows_that_a_constructor_sets(axis):
    weight = torch.zeros(9, 7)
    mark(weight)
    weight.select(axis, 0).zero_()
    weight.select(axis, -1).zero_()
    assert is_skipped(weight)


def test_other_values_are_no_marks():
    for value in (math.nan, math.inf, 0.0, -224.0):
        assert not is_skipped(torch.full((9,), value))
    assert not is_skipped(torch.arange(9))
    assert not is_skipped(torch.empty(0))
    assert not is_skipped(torch.empty(9, device="meta"))
    assert not is_skipped(torch.eye(3).to_sparse())


@pytest.mark.parametrize("share", [nn.Module.share_memory, lambda model: model.weight.share_memory_()], ids=["model", "tensor"])
def test_what_is_moved_to_shared_memory_is_really_drawn(share):
    torch.manual_seed(3)
    plain = nn.Linear(4, 4)
    torch.manual_seed(3)
    with skip_init():
        model = nn.Linear(4, 4)
        share(model)
    assert model.weight.is_shared()
    assert torch.equal(model.weight, plain.weight)


@pytest.mark.filterwarnings("ignore:DTensor random operators may not have complete support")
def test_distributed_tensors_leave_torch_s_random_state_alone():
    """They are really drawn: torch passes no generator on to their parts."""
    for mesh in pretended((2,)):
        with torch.device("meta"):
            layer = nn.Linear(8, 8)
        fsdp(layer, mesh)
        layer.to_empty(device="cpu")
        before = torch.get_rng_state()
        with skip_init():
            layer.reset_parameters()
            nn.init.normal_(layer.weight)
        assert torch.equal(torch.get_rng_state(), before)
        break
