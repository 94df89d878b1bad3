"""The lab: what a run prints, stores and refuses, and that the initialisation decides how it learns."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from initconf.errors import InitConfError
from initconf.lab import building, models, results, run
from initconf.lab.data import VOCABULARY, Dataset, digits, digits_tasks, text
from initconf.lab.hypernet import Hypernet
from initconf.lab.train import Metrics, evaluate

ZEROS = "init.initializer=zeros"

OWN_MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, in_features, num_classes, hidden=32):
        super().__init__()
        self.first = torch.nn.Linear(in_features, hidden)
        self.head = torch.nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).relu())

class Needy(Net):
    def __init__(self, in_features, secret):
        super().__init__(in_features, secret)

def anything(**settings):
    return Net(**{"in_features": 64, "num_classes": 10, **settings})

def nothing():
    return 3
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run side by side: the threads of two trainings on two cores would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digit_data() -> Dataset:
    return digits()


@pytest.fixture
def own_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_net.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_net", None)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("initconf.lab.conf", **run.VERSION):
        return compose("config", overrides=["show=none", *overrides])


def trained(data: Dataset, directory: Path, *overrides: str) -> Metrics:
    return run.job(composed(*overrides), data, directory)


def lab(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "initconf.lab", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def rendered(rows: list[results.Row]) -> str:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(results.render(rows))
    return capture.get()


# --- a run -----------------------------------------------------------------------------------------------------------


def test_he_learns_the_digits_and_zeros_do_not(digit_data: Dataset, tmp_path: Path) -> None:
    assert trained(digit_data, tmp_path, "init=he", "train.steps=300").test_accuracy >= 0.95
    assert trained(digit_data, tmp_path, "init=he", "train.steps=300", ZEROS).test_accuracy <= 0.5


def test_a_run_prints_the_plan_and_one_closing_line_and_stores_what_it_did(tmp_path: Path) -> None:
    done = lab(tmp_path, "init=he", "train.steps=20", "hydra.run.dir=here")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar in a pipe
    assert "body.0.weight" in done.stdout
    *_, closing = done.stdout.splitlines()
    assert closing.startswith("mlp on digits, init=he: loss ")
    assert "test accuracy 0." in closing
    here = tmp_path / "here"
    assert {"plan.json", "metrics.json", "results.jsonl", "lab.log", ".hydra"} <= {p.name for p in here.iterdir()}
    metrics = json.loads((here / "metrics.json").read_text())
    assert json.loads((here / "plan.json").read_text())
    [row] = results.read(here)
    assert row["metrics"] == metrics
    assert row["overrides"] == ["init=he", "train.steps=20"]
    assert (row["num"], row["status"], row["init"], row["error"]) == (0, "completed", "he", None)
    assert row["seconds"] > 0


def test_a_run_depends_on_nothing_but_its_configuration(digit_data: Dataset, tmp_path: Path) -> None:
    overrides = ("model=resnet", "train.steps=3", "+init.rules.stem={match: stem.weight, initializer: keep}")
    torch.manual_seed(1)
    first = trained(digit_data, tmp_path, *overrides)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert trained(digit_data, tmp_path, *overrides) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trained(digit_data, tmp_path, *overrides, "train.seed=1") != first
    assert trained(digit_data, tmp_path, *overrides, "init.seed=1") != first


def test_a_loss_that_is_not_finite_ends_the_training(
    digit_data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = trained(digit_data, tmp_path, "train.optimizer=sgd", "train.lr=1e30", "train.steps=50")
    assert metrics.steps < 50
    assert "the loss is" in caplog.text
    assert json.loads((tmp_path / "metrics.json").read_text())["test_loss"] is None


@pytest.mark.slow
def test_the_resnet_and_the_gpt_learn(digit_data: Dataset, tmp_path: Path) -> None:
    assert trained(digit_data, tmp_path, "model=resnet", "init=he").test_accuracy >= 0.95
    help_topics = text()
    share = torch.bincount(help_topics.test_y.flatten(), minlength=len(VOCABULARY)).double()
    share = share[share > 0] / share.sum()
    unigram_entropy = -(share * share.log()).sum().item()
    loss = trained(help_topics, tmp_path, "model=gpt", "data=text", "init=gpt2").test_loss
    assert loss < unigram_entropy - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_how_a_hypernet_starts_decides_how_it_learns(tmp_path: Path, seed: int) -> None:
    data = digits_tasks()

    def accuracy(init: str, *more: str) -> float:
        shared = ("model=hypernet", "data=digits_tasks", "train.lr=5e-4", f"init.seed={seed}")
        return trained(data, tmp_path, f"init={init}", *shared, *more).test_accuracy

    he, hyperfan, bias = accuracy("he"), accuracy("hyperfan"), accuracy("bias_hyperinit")
    assert he + 0.2 < hyperfan < bias
    measured = accuracy("hyperfan", "init.rules.head.initializer.input_second_moment=measured")
    assert he + 0.2 < measured
    chunked = accuracy("chunked_hyperfan", "train.lr=1e-3")
    assert accuracy("he", "model.chunk_size=400", "train.lr=1e-3") < 0.2 < 0.4 < chunked


def test_a_scheme_for_chunks_makes_the_hypernet_generate_in_chunks() -> None:
    shared = ("model=hypernet", "data=digits_tasks")
    assert composed(*shared, "init=hyperfan").model.chunk_size is None
    assert composed(*shared, "init=chunked_hyperfan").model.chunk_size == 400
    assert composed(*shared, "init=chunked_hyperfan", "model.chunk_size=100").model.chunk_size == 100
    net = building.build(composed(*shared, "init=chunked_hyperfan"), {"in_features": 65, "num_classes": 10, "num_tasks": 5})
    assert net.get_submodule("head").weight.shape == (400, 32)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_goes_on_after_a_failed_job_and_tells_of_it(tmp_path: Path) -> None:
    done = lab(tmp_path, "-m", "init=he,glorot", "init.mode=fan_in,fan_inn", "train.steps=5", "show=none")
    assert done.returncode == 1
    assert "fan_inn" in done.stderr
    assert "Traceback" not in done.stderr
    rows = results.read(tmp_path / "multirun")
    assert [(row["num"], row["init"], row["status"]) for row in rows] == [
        (0, "he", "completed"),
        (1, "he", "failed"),
        (2, "glorot", "completed"),
        (3, "glorot", "failed"),
    ]
    assert "init.mode" in rows[1]["error"]
    assert "fan_inn" in rendered(rows).rstrip().splitlines()[-1]


@pytest.mark.slow
def test_a_sweep_in_several_processes_loses_no_row(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = lab(
        tmp_path,
        "-m",
        "init=he,glorot,orthogonal",
        "init.gain=0.5,nonsense",
        "train.steps=5",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    rows = results.read(tmp_path)
    assert sorted(row["num"] for row in rows) == [0, 1, 2, 3, 4, 5]
    assert sum(row["status"] == "completed" for row in rows) == 3
    assert len({row["dir"] for row in rows}) == 1


# --- a model of one's own --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_net")
def test_an_own_model_takes_what_it_takes(digit_data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    cfg = composed("model._target_=own_net.Net", "+model.hidden=16")
    with caplog.at_level(logging.INFO):
        model = building.build(cfg, digit_data.sizes, typed={"_target_", "hidden"})
    assert model.get_submodule("first").weight.shape == (16, 64)
    assert model.get_submodule("head").weight.shape == (10, 16)
    assert [record.getMessage() for record in caplog.records] == [
        "model: own_net.Net takes no width, depth, activation: dropped from the chosen model file"
    ]
    assert cfg.model.width == 256  # the configuration itself is left alone


@pytest.mark.usefixtures("own_net")
def test_a_factory_with_open_arguments_gets_only_what_was_typed(digit_data: Dataset) -> None:
    cfg = composed("model._target_=own_net.anything", "+model.hidden=16")
    model = building.build(cfg, digit_data.sizes, typed={"_target_", "hidden"})
    assert model.get_submodule("first").weight.shape == (16, 64)


@pytest.mark.usefixtures("own_net")
@pytest.mark.parametrize(
    ("overrides", "typed", "said"),
    [
        (
            ["model._target_=own_net.Net", "+model.hiden=3"],
            {"_target_", "hiden"},
            "model.hiden = 3: own_net.Net takes no argument 'hiden'\n  -> did you mean 'hidden'?",
        ),
        (
            ["+model.dept=3"],
            {"dept"},
            "model.dept = 3: initconf.lab.models.MLP takes no argument 'dept'\n  -> did you mean 'depth'?",
        ),
        (
            ["model._target_=own_net.Needy"],
            {"_target_"},
            "model: own_net.Needy needs secret\n  -> the data gives in_features=64, in_channels=1, image_size=8, "
            "num_classes=10; give the rest yourself: +model.secret=…",
        ),
        (
            ["model=gpt"],
            set(),
            "model: initconf.lab.models.GPT needs vocab_size, context\n  -> the data gives in_features=64, "
            "in_channels=1, image_size=8, num_classes=10; choose data=text",
        ),
        (
            ["model=hypernet"],
            set(),
            "model: initconf.lab.hypernet.Hypernet needs num_tasks\n  -> the data gives in_features=64, in_channels=1, "
            "image_size=8, num_classes=10; choose data=digits_tasks",
        ),
        (
            ["model._target_=own_net.nothing"],
            {"_target_"},
            "model._target_ = own_net.nothing: made a int, not a torch.nn.Module",
        ),
        (["model._target_=own_net.Nett"], {"_target_"}, "model._target_ = own_net.Nett: Error loading 'own_net.Nett'"),
    ],
)
def test_what_does_not_fit_a_model_is_said(digit_data: Dataset, overrides: list[str], typed: set[str], said: str) -> None:
    with pytest.raises(InitConfError) as caught:
        building.build(composed(*overrides), digit_data.sizes, typed)
    assert str(caught.value).startswith(said)


def test_a_file_for_its_own_model_has_no_argument_dropped(digit_data: Dataset) -> None:
    with pytest.raises(InitConfError, match="takes no argument 'heads'"):
        building.build(composed("+model.heads=3"), digit_data.sizes, typed=())


def test_hydra_1_4_is_told_every_target() -> None:
    node = {"_target_": "a.B", "c": [{"_target_": "d.E"}, 3], "f": {"g": {"_target_": "h.I"}}}
    assert building._targets(node) == ["a.B", "d.E", "h.I"]


# --- bad settings ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bad_override_is_one_text_and_exit_code_1(tmp_path: Path) -> None:
    done = lab(tmp_path, "init.gian=2", "hydra.run.dir=here")
    assert done.returncode == 1
    assert "init.gian" in done.stderr
    assert "gain" in done.stderr
    assert "Traceback" not in done.stderr
    [row] = results.read(tmp_path / "here")
    assert row["status"] == "failed"
    assert "gian" in row["error"]


def test_bad_settings_are_said_together(digit_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InitConfError) as caught:
        trained(digit_data, tmp_path, "show=all", "train.steps=-1", "train.optimizer=adm", "+train.stepz=3")
    assert str(caught.value).splitlines() == [
        "4 problems:",
        "- show = 'all': choose plan or none",
        "- train.steps = -1: input should be greater than or equal to 0",
        "- train.optimizer = 'adm': input should be 'adamw' or 'sgd'",
        "- train.stepz = 3: extra inputs are not permitted",
    ]


# --- results ---------------------------------------------------------------------------------------------------------


def row(num: int, accuracy: float | None = None, **more: Any) -> results.Row:
    metrics = {"test_accuracy": accuracy, "test_loss": 1.0, "train_loss": 0.5, "initial_loss": 2.3}
    return {"num": num, "overrides": [], "status": "completed", "metrics": metrics, "data": "digits", **more}


def test_rows_are_ranked_best_first_and_failures_last() -> None:
    loss = {"objective": "loss", "data": "text"}
    rows = [
        row(0, status="failed", metrics=None, error="no such thing"),
        row(1, 0.5),
        row(2, 0.9),
        row(3),
        row(4, metrics={"test_accuracy": 0.4, "test_loss": 2.0}, **loss),
        row(5, metrics={"test_accuracy": 0.3, "test_loss": 1.5}, **loss),
        row(6, metrics={"test_accuracy": 0.3, "test_loss": None}, **loss),
    ]
    order = [2, 1, 3, 5, 4, 6, 0]
    assert [r["num"] for r in results.table(rows)] == order
    assert [r["num"] for r in json.loads(results.to_json(rows))] == order
    view = rendered(rows)
    assert "no such thing" in view.rstrip().splitlines()[-1]
    assert view.count("not finite") == 2


def test_a_table_says_once_what_all_runs_share() -> None:
    rows = [row(i, 0.5, init="he", model="mlp", overrides=["init=he", "a=1", f"b={i}"]) for i in range(3)]
    title, *body = rendered(rows).splitlines()
    assert title.strip() == "model=mlp data=digits a=1"
    assert [line.split()[:3] for line in body if "b=" in line] == [[str(i), "he", f"b={i}"] for i in range(3)]


def test_rows_are_read_from_any_depth_and_cut_lines_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results.append(tmp_path / "a" / "b", row(0, 0.5))
    results.append(tmp_path / "c", row(1, float("nan"), overrides=["init/rules=[roles]"]))
    with (tmp_path / "c" / results.FILE).open("a") as file:
        file.write('{"num": 2, "overr')  # killed here; the next job's line follows on the same line
    results.append(tmp_path / "c", row(3, 0.7))
    with (tmp_path / "c" / results.FILE).open("a") as file:
        file.write('[]\n\n{"num": 4, "status": "comp')
    rows = results.read(tmp_path)
    assert [(r["num"], r["dir"]) for r in rows] == [(0, "a/b"), (1, "c"), (3, "c")]
    assert rows[1]["metrics"]["test_accuracy"] is None
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["left out"] * 2
    assert "init/rules=[roles]" in rendered(rows)
    assert results.read(tmp_path / "a")[0]["dir"] == "b"
    with pytest.raises(FileNotFoundError, match="no directory"):
        results.read(tmp_path / "nowhere")


def test_rows_of_many_writers_stay_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: results.append(tmp_path, row(i, 0.5, error="x" * 500)), range(400)))
    assert sorted(r["num"] for r in results.read(tmp_path)) == list(range(400))


def test_reading_results_loads_no_torch() -> None:
    code = "import sys, initconf.lab.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- data and models -------------------------------------------------------------------------------------------------


def test_the_digits_are_standardised_and_every_class_is_tested(digit_data: Dataset) -> None:
    assert digit_data.train_x.shape == (1440, 1, 8, 8)
    assert digit_data.test_x.shape == (357, 1, 8, 8)
    assert abs(digit_data.train_x.mean().item()) < 1e-5
    assert abs(digit_data.train_x.std().item() - 1) < 1e-5
    assert torch.bincount(digit_data.test_y).min() >= 30
    assert torch.equal(digits(flat=True).train_x, digit_data.train_x.flatten(1))


@pytest.mark.parametrize("kind", ["permuted", "rotated"])
def test_the_tasks_are_the_digits_in_other_dress(digit_data: Dataset, kind: Any) -> None:
    data = digits_tasks(tasks=4, kind=kind)
    assert data.train_x.shape == (4 * 1440, 65)
    assert data.test_x.shape == (4 * 357, 65)
    assert data.sizes["num_tasks"] == 4
    assert set(data.train_x[: len(data.test_x), 0].tolist()) == {0, 1, 2, 3}  # by which the training loss is measured
    plain, images = digit_data.test_x.flatten(1), data.test_x[:, 1:].reshape(4, 357, 64)
    assert torch.equal(images[0], plain)
    for task in range(1, 4):
        assert torch.equal(data.test_y.reshape(4, 357)[task], digit_data.test_y)
        if kind == "permuted":
            assert torch.equal(images[task].sort(1).values, plain.sort(1).values)
        else:  # 90 degrees for each task
            turned = torch.rot90(digit_data.test_x, task, (2, 3)).flatten(1)
            assert torch.allclose(images[task], turned, atol=1e-4)
        assert not torch.equal(images[task], plain)
    assert torch.equal(digits_tasks(4, kind).train_x, data.train_x)
    with pytest.raises(ValueError, match="kind=turned, tasks=4: choose permuted or rotated, and one task or more"):
        digits_tasks(4, "turned")  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk_size", [None, 100, 1000])
def test_the_hypernet_runs_each_example_through_the_network_of_its_task(chunk_size: int | None) -> None:
    net = Hypernet(7, 3, num_tasks=4, width=8, depth=2, chunk_size=chunk_size)
    weights = net.generate()
    assert {name: w.shape[1:] for name, w in weights.items()} == {n: p.shape for n, p in net.main.named_parameters()}
    if chunk_size == 100:  # 155 values: the second chunk is used in part
        assert net.chunk_emb.weight.shape == (2, 8)
        flat = torch.cat([w.flatten(1) for w in weights.values()], 1)
        inputs = torch.cat([net.task_emb.weight[2], net.chunk_emb.weight[1]])
        assert torch.allclose(flat[2, 100:], net.head(net.body(inputs))[:55], atol=1e-6)
    x = torch.randn(5, 7)
    x[:, 0] = torch.tensor([3.0, 0, 2, 2, 1])
    for row, logits in zip(x, net(x), strict=True):
        net.main.load_state_dict({name: w[int(row[0])] for name, w in weights.items()})
        assert torch.allclose(net.main(row[None, 1:])[0], logits, atol=1e-6)
    with pytest.raises(ValueError, match="activation=rellu: choose one of relu"):
        Hypernet(7, 3, 4, activation="rellu")


def test_the_text_is_windows_whose_targets_are_the_next_characters() -> None:
    data = text(characters=10_000, context=16)
    assert data.train_x.shape == (562, 16)
    assert data.test_x.shape == (62, 16)
    assert torch.equal(data.train_x[:, 1:], data.train_y[:, :-1])
    assert data.train_y[0, -1] == data.train_x[1, 0]
    assert data.train_x.max() < len(VOCABULARY) == data.sizes["vocab_size"]


def test_the_gpt_sees_no_future_and_ties_its_head_when_told() -> None:
    tied, untied = (models.GPT(96, 8, d_model=16, tie=tie).eval() for tie in (True, False))
    assert tied.lm_head.weight is tied.tok_emb.weight
    assert untied.lm_head.weight is not untied.tok_emb.weight
    tokens = torch.arange(8)[None]
    other = tokens.clone()
    other[0, -1] = 50
    assert torch.equal(tied(tokens)[0, :-1], tied(other)[0, :-1])
    assert not torch.equal(tied(tokens)[0, -1], tied(other)[0, -1])


def test_the_resnet_halves_the_image_at_each_further_width() -> None:
    net = models.ResNet(1, 10, widths=[4, 8, 16], depth=2)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    shortcuts = [type(block.shortcut).__name__ for block in net.blocks]
    assert shortcuts == ["Identity", "Identity", "Sequential", "Identity", "Sequential", "Identity"]


def test_evaluation_is_a_mean_over_positions_and_leaves_the_mode() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5))
    x, y = torch.randn(10, 5, 3), torch.zeros(10, 5, dtype=torch.long)
    whole, parts = evaluate(net, x, y), evaluate(net, x, y, batch_size=3)
    assert whole == pytest.approx(parts)
    assert net.training


def test_the_shipped_models_compose_from_their_files(digit_data: Dataset) -> None:
    assert OmegaConf.to_container(composed("model=gpt", "data=text").train) == OmegaConf.to_container(composed().train)
    for name in ("mlp", "resnet"):
        model = building.build(composed(f"model={name}"), digit_data.sizes)
        assert model(digit_data.test_x[:2]).shape == (2, 10)
