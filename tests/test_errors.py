"""What is wrong is said in full, with its place and its remedy, before a bit of the model has changed.

Each row is one wrong configuration as a person writes it, and the whole text that it gives.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initconf
from initconf import ApplyError, CompileError, InitConfError, Problem, SpecError, load
from initconf.errors import did_you_mean, listed, near
from tests.small_models import attention, convnet, encoder, gpt, lstm, mlp, tied_gpt, untouched

Make = Callable[[], nn.Module]


# --- models with something odd about them ----------------------------------------------------------------------------


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return mlp()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2))


def normalised() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0])
    return model


def counting() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_parameter("steps", nn.Parameter(torch.zeros(3, 2, dtype=torch.int64), requires_grad=False))
    return model


class Free(nn.Module):
    """Parameters of its own, and nothing that sets them."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.ones(3))


def towers() -> nn.Module:
    return nn.ModuleDict({name: nn.ModuleList([nn.Linear(2, 2)]) for name in "ab"} | {"head": nn.Linear(2, 2)})


def half() -> nn.Module:
    return mlp().half()


def long_names() -> nn.Module:
    return nn.ModuleDict({"a" * 40: nn.Linear(2, 2)})


# --- the table -------------------------------------------------------------------------------------------------------

SCALE = "\n  -> give it an initializer of explicit scale, such as zeros or {name: normal, std: 0.02}"
NOBODY = "\n  -> init.unmatched=keep leaves it as it is; or give it a rule, "
LIST = "\n  -> `initconf list` shows them all"
NUMBER = '\n  -> write a number, or an expression such as "1/sqrt(2*n_layers)"'
HE, HEAD = "initconf/conf/init/he.yaml", "initconf/conf/init/rules/head.yaml"
THREE = "body.0.weight, body.2.weight, head.weight"
BIASES = "body.0.bias, body.2.bias, head.bias"
PATTERN = load("he").rules["head"].search  # type: ignore[union-attr]
SELECTORS = "match, search, glob, module, inside, role, ndim, block"

ROWS: list[tuple[Make, list[str], str]] = [
    # Names that nothing has.
    (
        mlp,
        ["rules.head.gian=0.1"],
        "init.rules.head.gian = 0.1  (override 'init.rules.head.gian=0.1'): 'gian' is not a key of a rule\n"
        "  -> did you mean 'gain'?",
    ),
    (mlp, ["gian=2"], "init.gian = 2  (override 'init.gian=2'): 'gian' is not a key of a spec\n  -> did you mean 'gain'?"),
    (
        mlp,
        ["rules.haed.gain=0.1"],
        "init.rules.haed  (override 'init.rules.haed.gain=0.1'): the rule selects nothing: it has no selector\n"
        f"  -> did you mean the rule 'head'? a new rule needs one of {SELECTORS}",
    ),
    (
        mlp,
        ["initializer=he_nromal"],
        "init.initializer = 'he_nromal'  (override 'init.initializer=he_nromal'): no initializer is named 'he_nromal'; "
        "did you mean 'he_normal'?" + LIST,
    ),
    (
        mlp,
        ["rules.bias.initializer=wobble"],
        "init.rules.bias.initializer = 'wobble'  (override 'init.rules.bias.initializer=wobble'): no initializer is named "
        "'wobble'" + LIST,
    ),
    (
        mlp,
        ["initializer={name: normal, stdd: 0.1}"],
        "init.initializer.stdd = 0.1  (override 'init.initializer={name: normal, stdd: 0.1}'): normal does not take 'stdd'; "
        "it takes mean, std, gain\n  -> did you mean 'std'? if it is left over from a merged mapping, write "
        "initializer=normal",
    ),
    (
        mlp,
        ["rules.head.role=wieght"],
        "init.rules.head.role = 'wieght'  (override 'init.rules.head.role=wieght'): no role is named 'wieght'\n"
        "  -> did you mean 'weight'?",
    ),
    (
        mlp,
        ["mode=fan_im"],
        "init.mode = 'fan_im'  (override 'init.mode=fan_im'): not a mode\n  -> did you mean 'fan_in'?",
    ),
    (
        mlp,
        ["distribution=normal"],
        "init.distribution = 'normal'  (override 'init.distribution=normal'): not a distribution\n  -> normal means "
        "truncated in TensorFlow and untruncated in torch: write truncated_normal or untruncated_normal",
    ),
    (
        mlp,
        ["gain_method=exact"],
        "init.gain_method = 'exact'  (override 'init.gain_method=exact'): not a gain method\n"
        "  -> known: backward, centred, numeric_grid, second_moment, torch",
    ),
    (
        mlp,
        ["nonlinearity={name: leaky_relu, slope: 0.2}"],
        "init.nonlinearity = {'name': 'leaky_relu', 'slope': 0.2}  (override 'init.nonlinearity={name: leaky_relu, slope: "
        f"0.2}}'): {THREE}: activation 'leaky_relu' has no argument 'slope'\n  -> known: negative_slope",
    ),
    (
        mlp,
        ["nonlinearity=gelu", "gain_method=torch"],
        f"init.gain_method = 'torch'  (override 'init.gain_method=torch'): {THREE}: torch's table has no gain for activation "
        "'gelu'; it knows linear, conv1d to conv_transpose3d, sigmoid, tanh, relu, leaky_relu, selu\n"
        "  -> use gain_method: second_moment",
    ),
    # Values that are no values.
    (mlp, ["gain=true"], "init.gain = True  (override 'init.gain=true'): neither a number nor an expression" + NUMBER),
    (mlp, ["gain=[1]"], "init.gain = [1]  (override 'init.gain=[1]'): neither a number nor an expression" + NUMBER),
    (
        mlp,
        ["gain=width"],
        "init.gain = 'width'  (override 'init.gain=width'): 'width' in 'width' is not known in expressions; known: exp, "
        "fan_avg, fan_in, fan_out, layer, log, max, min, n_layers, ndim, numel, pi, shape, sqrt" + NUMBER,
    ),
    (
        mlp,
        ["gain=-1"],
        f"init.gain = -1  (override 'init.gain=-1'): {THREE}: it should be greater than or equal to 0",
    ),
    (
        mlp,
        ["initializer={name: normal, std: -1}"],
        f"init.initializer.std = -1  (override 'init.initializer={{name: normal, std: -1}}'): {THREE}: it should be greater "
        "than or equal to 0",
    ),
    (
        mlp,
        ["initializer={name: normal, std: [1]}"],
        f"init.initializer.std = [1]  (override 'init.initializer={{name: normal, std: [1]}}'): {THREE}: it should be a "
        "valid number",
    ),
    (
        mlp,
        ["initializer={name: variance_scaling, mode: fan}"],
        f"init.initializer.mode = 'fan'  (override 'init.initializer={{name: variance_scaling, mode: fan}}'): {THREE}: it "
        "should be 'fan_in', 'fan_out', 'fan_avg' or 'fan_geo_avg'",
    ),
    (
        mlp,
        ["initializer={name: uniform, low: 2, high: 1}"],
        f"init.initializer  (override 'init.initializer={{name: uniform, low: 2, high: 1}}'): {THREE}: uniform cannot serve "
        "it: low = 2 is above high = 1",
    ),
    (
        mlp,
        ["initializer=constant"],
        "init.initializer  (override 'init.initializer=constant'): constant needs value\n"
        "  -> write initializer: {name: constant, value: ...}",
    ),
    (
        half,
        ["initializer={name: constant, value: 1e5}"],
        f"init.initializer  (override 'init.initializer={{name: constant, value: 1e5}}'): {THREE}: constant cannot serve it: "
        "values of up to 100000 do not fit float16, which ends at 65504",
    ),
    (
        mlp,
        ["initializer={name: variance_scaling, scale: 2}", "rules.head.gain=0.1"],
        "init.rules.head.gain = 0.1  (override 'init.rules.head.gain=0.1'): gain and scale (init.initializer.scale) exclude "
        "each other: scale is the square of the whole gain\n  -> say one of them",
    ),
    # Patterns and selectors.
    (
        mlp,
        ["rules.head.search=[a]"],
        "init.rules.head.search = ['a']  (override 'init.rules.head.search=[a]'): YAML read the pattern as a list\n"
        "  -> put it in single quotes: '...' in YAML, and in Hydra quotes (\"...\") on a command line",
    ),
    (
        mlp,
        ['rules.head.search="head.("'],
        "init.rules.head.search = 'head.('  (override 'init.rules.head.search=\"head.(\"'): the pattern does not compile: "
        "missing ), unterminated subpattern at position 5\n"
        "  -> it is a regex of Python's `re`, in which ( [ { . * + ? | ^ $ that are meant as such have a \\ in front",
    ),
    (
        mlp,
        ['rules.head.match="(a{500}){500}"'],
        "init.rules.head.match = '(a{500}){500}'  (override 'init.rules.head.match=\"(a{500}){500}\"'): the repetitions of "
        "the pattern multiply to more than 100000\n  -> make it simpler and shorter",
    ),
    (
        long_names,
        ['rules.slow={search: "(?=x)|((a|aa|.)+)+\\1\\1!", gain: 2}'],
        "init.rules.slow.search  (override 'init.rules.slow={search: \"(?=x)|((a|aa|.)+)+\\\\1\\\\1!\", gain: 2}'): the "
        "pattern '(?=x)|((a|aa|.)+)+\\\\1\\\\1!' took more than 1 s over 2 names; write it without nested repetitions, "
        "lookaround or backreferences, so that RE2 can take it",
    ),
    # Rules that match nothing.
    (
        mlp,
        ['rules.new={match: "haed.weight", gain: 2}'],
        "init.rules.new  (override 'init.rules.new={match: \"haed.weight\", gain: 2}'): it matches nothing: no parameter's "
        "name fits match 'haed.weight'\n  -> near names: head.weight, body.0.weight",
    ),
    (
        mlp,
        ["rules.new={role: embedding, gain: 2}"],
        "init.rules.new  (override 'init.rules.new={role: embedding, gain: 2}'): it matches nothing: no parameter has role "
        "embedding\n  -> there are: bias, weight",
    ),
    (
        mlp,
        ["rules.new={module: Conv2d, gain: 2}"],
        "init.rules.new  (override 'init.rules.new={module: Conv2d, gain: 2}'): it matches nothing: no parameter is owned "
        "by a Conv2d\n  -> there are: Linear",
    ),
    (
        attention,
        ["rules.new={glob: attn.in_proj_weight, block: qk, gain: 2}"],
        "init.rules.new  (override 'init.rules.new={glob: attn.in_proj_weight, block: qk, gain: 2}'): it matches nothing: "
        "attn.in_proj_weight has the blocks q, k, v",
    ),
    (
        tied_gpt,
        ["rules.head.gain=0.1"],
        "init.rules.head  (override 'init.rules.head.gain=0.1'): it matches nothing: lm_head.weight has role embedding, "
        "because it is tied to tok_emb.weight\n  -> bend its rule instead: init.rules.embedding.gain=0.1",
    ),
    (
        lambda: nn.Sequential(nn.Linear(2, 3)),
        ["rules.head.gain=0.1"],
        "init.rules.head  (override 'init.rules.head.gain=0.1'): it matches nothing: no parameter's name fits search "
        f"{PATTERN!r}\n  -> names are such as 0.weight, 0.bias",
    ),
    (
        mlp,
        ["rules.head.expect=2"],
        "init.rules.head.expect = 2  (override 'init.rules.head.expect=2'): it wins 1 parameter\n"
        "  -> if that is right, write init.rules.head.expect=1",
    ),
    # Parameters that nobody claims.
    (
        mlp,
        ["rules.bias=null"],
        f"{BIASES}  (override 'init.rules.bias=null'): no rule claims it (role bias); the rule 'bias' is switched off"
        + NOBODY
        + "'init.rules.bias={role: bias, initializer: zeros}'",
    ),
    (
        convnet,
        ["init/rules=[head,biases]"],
        "2 problems:\n"
        "- 1.weight: no rule claims it (role norm_scale)\n    -> init.unmatched=keep leaves it as it is; or give it a rule, "
        "'init.rules.norm_scale={role: norm_scale, initializer: ones}'\n"
        "- 1.bias: no rule claims it (role norm_shift)\n    -> init.unmatched=keep leaves it as it is; or give it a rule, "
        "'init.rules.norm_shift={role: norm_shift, initializer: zeros}'",
    ),
    (
        lstm,
        ["rules.recurrent=null"],
        "rnn.weight_hh_l0[i], rnn.weight_hh_l0[f], rnn.weight_hh_l0[g] and 13 more  (override 'init.rules.recurrent=null'): "
        "no rule claims it (role recurrent); the rule 'recurrent' is switched off"
        + NOBODY
        + "'init.rules.recurrent={role: recurrent, initializer: orthogonal}'",
    ),
    # Tensors that an initializer cannot serve.
    (
        mlp,
        ["rules.bias.initializer=he_normal"],
        f"init.rules.bias.initializer  (override 'init.rules.bias.initializer=he_normal'): {BIASES}: he_normal cannot serve "
        "it: a 1-D tensor of role bias has no fans to scale by" + SCALE,
    ),
    (
        mlp,
        ["rules.new={glob: head.bias, gain: 2}"],
        "init.rules.new  (override 'init.rules.new={glob: head.bias, gain: 2}'): head.bias: variance_scaling cannot serve "
        "it: a 1-D tensor of role bias has no fans to scale by" + SCALE,
    ),
    (
        encoder,
        ["rules.norm_scale.initializer=orthogonal"],
        "init.rules.norm_scale.initializer  (override 'init.rules.norm_scale.initializer=orthogonal'): layers.0.norm1.weight, "
        "layers.0.norm2.weight, layers.1.norm1.weight and 1 more: orthogonal cannot serve it: a 1-D tensor of role "
        "norm_scale is no matrix to be made orthogonal" + SCALE,
    ),
    (
        Free,
        ["rules.other.initializer=module_default"],
        "init.rules.other.initializer  (override 'init.rules.other.initializer=module_default'): free: module_default "
        "cannot serve it: Free has neither reset_parameters nor _reset_parameters\n"
        "  -> {name: module_default, otherwise: keep} keeps the values that are there",
    ),
    (
        on_meta,
        ["initializer=keep"],
        f"init.initializer  (override 'init.initializer=keep'): {THREE}: keep cannot serve it: a parameter on meta has no "
        "values to keep\n  -> construct the model in skip_init, which keeps them, or give it an initializer that writes values",
    ),
    (
        counting,
        [],
        "steps: values of dtype int64 are not drawn\n  -> keep them: 'init.rules.kept={glob: steps, initializer: keep}'",
    ),
    (
        counting,
        ["rules.zero={glob: steps, initializer: zeros}"],
        "init.rules.zero.initializer  (override 'init.rules.zero={glob: steps, initializer: zeros}'): steps: values of dtype "
        "int64 are not drawn\n  -> keep them: 'init.rules.kept={glob: steps, initializer: keep}'",
    ),
    # Expressions.
    (
        mlp,
        ['rules.head.gain="1/layer"'],
        "init.rules.head.gain = '1/layer'  (override 'init.rules.head.gain=\"1/layer\"'): head.weight: '1/layer' uses layer: "
        "the parameter is in no ModuleList or Sequential",
    ),
    (
        towers,
        ['rules.head.gain="1/n_layers"'],
        "init.rules.head.gain = '1/n_layers'  (override 'init.rules.head.gain=\"1/n_layers\"'): head.weight: '1/n_layers' "
        "uses n_layers: the model has 2 containers (a, b); say which with `layers: '<regex with one group>'`",
    ),
    (
        gpt,
        ['gain="1/layer"', "rules.head.gain=1"],
        "init.gain = '1/layer'  (override 'init.gain=\"1/layer\"'): blocks.0.attn.q_proj.weight, blocks.0.attn.k_proj.weight, "
        "blocks.0.attn.v_proj.weight and 3 more: '1/layer' has no value here: 1 / layer divides by zero",
    ),
    (
        mlp,
        ['rules.bias.initializer={name: constant, value: "shape[1]"}', "rules.head_bias={glob: head.bias, initializer: zeros}"],
        "init.rules.bias.initializer.value = 'shape[1]'  (override 'init.rules.bias.initializer={name: constant, value: "
        "\"shape[1]\"}'): body.0.bias, body.2.bias: 'shape[1]' has no value here: shape[1] is not there: the shape is (8,)",
    ),
    # Models that are not ready.
    (
        lazy,
        [],
        "0.weight, 0.bias, 2.weight and 1 more: the parameter is lazy and has no shape yet\n"
        "  -> run the model once on an example input, so that its lazy modules know their sizes",
    ),
    (
        normalised,
        [],
        "0: its weight is computed by WeightNorm before every forward pass\n  -> initialise before the normalisation is added",
    ),
    (
        on_meta,
        [],
        "body.0.weight, body.0.bias, body.2.weight and 3 more: it is on meta and has no memory\n"
        "  -> say where it shall be: device='cpu'",
    ),
    # Several at once.
    (
        mlp,
        ["seed=x", "gain=true", "rules.haed.gain=3", "rules.bias={ndim: two}"],
        "4 problems:\n"
        "- init.gain = True  (override 'init.gain=true'): neither a number nor an expression\n"
        '    -> write a number, or an expression such as "1/sqrt(2*n_layers)"\n'
        "- init.seed = 'x'  (override 'init.seed=x'): not an integer\n"
        "    -> write an integer, such as 3\n"
        "- init.rules.bias.ndim = 'two'  (override 'init.rules.bias={ndim: two}'): not an integer\n"
        "    -> write an integer, such as 3\n"
        "- init.rules.haed  (override 'init.rules.haed.gain=3'): the rule selects nothing: it has no selector\n"
        f"    -> did you mean the rule 'head'? a new rule needs one of {SELECTORS}",
    ),
    (
        mlp,
        ["initializer=nope", "rules.bias=null", "rules.new={role: position, gain: 2}", "rules.head.expect=[2,3]"],
        "4 problems:\n"
        "- init.initializer = 'nope'  (override 'init.initializer=nope'): no initializer is named 'nope'\n"
        "    -> `initconf list` shows them all\n"
        "- init.rules.head.expect = [2, 3]  (override 'init.rules.head.expect=[2,3]'): it wins 1 parameter\n"
        "    -> if that is right, write init.rules.head.expect=1\n"
        "- init.rules.new  (override 'init.rules.new={role: position, gain: 2}'): it matches nothing: no parameter has role "
        "position\n    -> there are: bias, weight\n"
        f"- {BIASES}  (override 'init.rules.bias=null'): no rule claims it (role bias); the rule 'bias' is switched off\n"
        "    -> init.unmatched=keep leaves it as it is; or give it a rule, 'init.rules.bias={role: bias, initializer: zeros}'",
    ),
]


@pytest.mark.parametrize(("make", "overrides", "text"), ROWS, ids=[f"{row[0].__name__}-{row[1]}" for row in ROWS])
def test_what_is_wrong(make: Make, overrides: list[str], text: str) -> None:
    model = make()
    with untouched(model), pytest.raises(InitConfError) as caught:
        initconf.initialize(model, load("he", overrides))
    assert str(caught.value) == text


def test_each_problem_has_its_parts() -> None:
    with pytest.raises(SpecError) as caught:
        load("he", ["gian=2"])
    assert caught.value.problems == (
        Problem("'gian' is not a key of a spec", "init.gian", "2", "override 'init.gian=2'", "did you mean 'gain'?"),
    )
    with pytest.raises(ApplyError) as told:
        initconf.initialize(on_meta(), "he")
    assert [problem.path for problem in told.value.problems] == [name for name, _ in mlp().named_parameters()]


def test_a_scheme_is_blamed_with_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "defaults: [he]\nnonlinearity: rellu\nrules:\n  qkv:\n    match: [qkv]_proj\n".replace("[qkv]", "q")
        + "    gain: 2\n  emb: {glob: '*.emb', initializer: {name: normal, sdt: 1}, optional: true}\n  head: {gain: [1]}\n"
    )
    for model, text in (
        (
            mlp(),
            "init.rules.head.gain = [1]  (mine.yaml:8): neither a number nor an expression" + NUMBER,
        ),
    ):
        with untouched(model), pytest.raises(SpecError) as caught:
            initconf.initialize(model, "mine.yaml")
        assert str(caught.value) == text
    text = (tmp_path / "mine.yaml").read_text().replace("[1]", "1")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(CompileError) as wrong:
        initconf.initialize(mlp(), "mine.yaml")
    said = str(wrong.value).splitlines()
    assert said[:3] == [
        "2 problems:",
        "- init.rules.qkv  (mine.yaml:6): it matches nothing: no parameter's name fits match 'q_proj'",
        "    -> names are such as body.0.weight, body.0.bias",
    ]
    assert said[3] == f"- init.nonlinearity = 'rellu'  (mine.yaml:2): {THREE}: no activation is named 'rellu'"
    assert said[4].startswith("    -> did you mean 'relu'? ")


def test_generator_without_compat() -> None:
    model = mlp()
    generator = torch.Generator().manual_seed(0)
    with untouched(model), pytest.raises(ApplyError) as caught:
        initconf.initialize(model, "he", generator=generator)
    assert str(caught.value) == (
        "a generator was given, and the spec does not say `compat: torch`\n"
        "  -> write `compat: torch` in the spec, or leave the generator out: initconf's own streams need none"
    )


def test_a_registered_function_that_is_wrong() -> None:
    @initconf.register("no_law")
    def no_law(site: Any) -> Any:
        return 3

    @initconf.register("broken")
    def broken(site: Any) -> Any:
        raise ZeroDivisionError("nothing to divide by")

    for name, why in (
        ("no_law", "the initializer 'no_law' returned 3, not a law"),
        ("broken", "it raised ZeroDivisionError: nothing to divide by"),
    ):
        model = mlp()
        with untouched(model), pytest.raises(CompileError) as caught:
            initconf.initialize(model, load("he", [f"initializer={name}"]))
        assert str(caught.value).splitlines()[0] == (
            f"init.initializer  (override 'init.initializer={name}'): {THREE}: {name} cannot serve it: {why}"
        )


# --- how problems are said -------------------------------------------------------------------------------------------


def test_the_form_of_a_problem() -> None:
    assert str(Problem("text")) == "text"
    assert str(Problem("text", "a.b")) == "a.b: text"
    assert str(Problem("text", "a.b", "3")) == "a.b = 3: text"
    assert str(Problem("text", "a.b", "3", "f.yaml:2")) == "a.b = 3  (f.yaml:2): text"
    assert str(Problem("text", None, None, "f.yaml:2")) == "(f.yaml:2): text"
    assert str(Problem("text", "a", None, None, "do this")) == "a: text\n  -> do this"


def test_the_form_of_several() -> None:
    assert str(InitConfError("one")) == "one"
    assert str(InitConfError(["one", Problem("two", remedy="do this")])) == "2 problems:\n- one\n- two\n    -> do this"
    alike = [Problem("lazy", name, remedy="run it") for name in "abcde"]
    assert str(InitConfError(alike)) == "a, b, c and 2 more: lazy\n  -> run it"
    assert str(InitConfError([*alike[:2], "other", alike[2]])) == "2 problems:\n- a, b, c: lazy\n    -> run it\n- other"
    assert len(InitConfError(alike).problems) == 5
    for kind in (SpecError, CompileError, ApplyError):
        assert issubclass(kind, InitConfError)


def test_near_words() -> None:
    words = ["gain", "mode", "gain_method"]
    assert near("gian", words) == ["gain"]
    assert did_you_mean("gian", words) == "did you mean 'gain'?"
    assert did_you_mean("zzz", words) == "known: gain, gain_method, mode"
    assert did_you_mean("zzz", []) == "there are none"
    assert listed("abca") == "a, b, c"
    assert listed("abcde", 1) == "a and 4 more"
