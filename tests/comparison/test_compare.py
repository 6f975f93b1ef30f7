"""Which run is better: by the images, by the seeds, or not decided; and the page and the table that say so."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.cli.main import main
from t2t_vit.comparison.findings import headline, pairs_of
from t2t_vit.comparison.page import comparison_page
from t2t_vit.comparison.runs import differing_keys, grouped, read_runs
from t2t_vit.errors import UserError
from t2t_vit.report import run_files

MakeRun = Callable[..., Path]
HUNDRED = range(100)


def shares(count: int, shift: int = 0) -> list[bool]:
    """100 answers, `count` of them right."""
    return [(number + shift) % 100 < count for number in HUNDRED]


def found(*folders: Path) -> tuple[Any, Any]:
    groups = grouped(read_runs(folders))
    return groups, pairs_of(groups)


def words_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_one_is_better_on_the_same_images(make_run: MakeRun) -> None:
    _, (pair,) = found(make_run("a", shares(70)), make_run("b", shares(90), base_lr=0.1))
    assert pair.verdict == "better"
    assert pair.images.value == pytest.approx(0.2)
    assert pair.p == pytest.approx(2 / 2**20)
    assert pair.sentence.startswith("b is better than a: its top-1 is 20.00 percentage points higher (95 % interval ")
    _, (turned,) = found(Path("runs/logs/b"), Path("runs/logs/a"))
    assert (turned.verdict, turned.p) == ("worse", pair.p)
    assert turned.sentence.startswith("b is better than a: its top-1 is 20.00 percentage points higher (95 % interval ")


def test_the_order_of_the_images_does_not_matter(make_run: MakeRun) -> None:
    _, (pair,) = found(make_run("a", shares(70)), make_run("b", shares(90)[::-1], images=[*HUNDRED][::-1], base_lr=0.1))
    assert pair.p == pytest.approx(2 / 2**20)


def test_not_decided(make_run: MakeRun) -> None:
    _, (pair,) = found(make_run("a", shares(70)), make_run("b", shares(71), base_lr=0.1))
    assert (pair.verdict, pair.p) == ("not decided", 1.0)
    assert pair.sentence.startswith("Not decided between a and b: their top-1 differs by +1.00 percentage points (")


def test_runs_of_several_seeds_are_one_group(make_run: MakeRun) -> None:
    first = [make_run(f"a{seed}", shares(70 + seed), seed=seed) for seed in range(3)]
    second = [make_run(f"b{seed}", shares(90 + seed), seed=seed, base_lr=0.1, print_loss_every=7) for seed in range(3)]
    groups, (pair,) = found(first[0], second[0], *first[1:], *second[1:])
    assert [group.name for group in groups] == ["a0 (3 seeds)", "b0 (3 seeds)"]
    assert groups[0].mean(lambda run: run.top1) == pytest.approx(0.71)
    assert groups[0].spread(lambda run: run.top1) == pytest.approx(0.01)
    assert pair.verdict == "better"
    assert pair.deciding is pair.seeds
    assert pair.seeds.value == pytest.approx(0.2)
    assert "Welch's t-test over 3 and 3 seeds" in pair.sentence
    assert pair.images.value == pytest.approx(0.2)  # of the mean over the seeds, on the same images
    assert differing_keys(groups) == {
        "base_lr": [[0.001], [0.1]], "seed": [[0, 1, 2]] * 2, "print_loss_every": [[100], [7]],
    }  # fmt: skip


def test_a_spread_larger_than_the_difference_decides_nothing(make_run: MakeRun) -> None:
    first = [make_run(f"a{seed}", shares(60 + 10 * seed), seed=seed) for seed in range(3)]
    second = [make_run(f"b{seed}", shares(65 + 10 * seed), seed=seed, base_lr=0.1) for seed in range(3)]
    _, (pair,) = found(*first, *second)
    assert pair.images.p < 0.05  # these very networks do differ
    assert pair.verdict == "not decided"


def test_seeds_of_one_configuration_are_compared_as_runs(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(make_run(f"a{seed}", shares(70 + seed), seed=seed)) for seed in range(2)]
    assert main(["compare", *folders]) == 0
    out, err = capsys.readouterr()
    assert "Not decided between a0 and a1" in out
    assert [line.split() for line in out.splitlines()[4:6]] == [
        ["key", "that", "differs", "a0", "a1"],
        ["seed", "0", "1"],
    ]
    assert "These runs have the same configuration: they differ only by what another seed changes" in err
    assert "train each configuration with several seeds" not in err


def test_a_seed_that_was_trained_twice_counts_once(make_run: MakeRun) -> None:
    first = [make_run(f"a{n}", shares(70 + 10 * seed), seed=seed) for n, seed in enumerate((0, 0, 1))]
    second = [make_run(f"b{n}", shares(90), seed=0, base_lr=0.1) for n in range(3)]
    groups, (pair,) = found(*first, *second)
    assert [group.name for group in groups] == ["a0 (3 runs of 2 seeds)", "b0 (3 runs of 1 seed)"]
    assert groups[0].values(lambda run: run.top1) == pytest.approx([0.7, 0.8])
    assert groups[1].spread(lambda run: run.top1) is None
    assert pair.seeds is None


def test_three_are_corrected_for_their_number(make_run: MakeRun) -> None:
    folders = [make_run(f"r{n}", shares(n), base_lr=n / 1000) for n in (70, 76, 80)]
    _, pairs = found(*folders)
    raw = [pair.images.p for pair in pairs]
    assert raw == pytest.approx([2 / 2**6, 2 / 2**10])
    assert [pair.p for pair in pairs] == pytest.approx([2 / 2**6, 4 / 2**10])
    assert headline(pairs) == (
        "Compared with r70, better: r76 (+6.00 points), r80 (+10.00 points) (p-values after Holm's correction)."
    )
    other = make_run("other", shares(90), base_lr=0.1, images=range(50, 150))
    groups, pairs = found(folders[0], folders[2], other)  # only one can be tested
    assert [pair.p for pair in pairs] == [pytest.approx(2 / 2**10), None]
    assert headline(pairs) == "Compared with r70, better: r80 (+10.00 points); not decided: other (no test)."
    assert "Holm" not in comparison_page(groups, pairs)


def test_different_images_are_not_paired(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run("a", shares(70)), make_run("b", shares(90), images=range(50, 150), base_lr=0.1)
    assert main(["compare", str(a), str(b)]) == 0
    out, err = capsys.readouterr()
    sentence = "a and b were measured on different validation images (100 and 100, 50 in common)"
    assert sentence in err
    assert "Not decided between a and b: there is no test." in out
    assert "+20.00" in out  # a difference is shown, tested or not
    page = words_of(Path("comparison.html").read_text(encoding="utf-8"))
    assert sentence in page
    assert "Top-1 accuracy by epoch" in page
    assert "Top-1 accuracy by seconds" in page


def test_a_run_that_was_killed_is_shown_as_far_as_it_came(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_run("a", shares(70)), make_run("b", shares(90), finished=False, base_lr=0.1)
    assert main(["compare", str(a), str(b)]) == 0
    out, err = capsys.readouterr()
    assert "b is not finished" in err
    assert "90.00 %" in out
    groups, (pair,) = found(a, b)
    assert (pair.images, pair.seeds, pair.p) == (None, None, None)
    page = words_of(comparison_page(groups, [pair]))
    assert "Not finished, so shown with the figures of the last evaluation: b" in page


def test_where_none_came_to_its_end_nothing_is_tested(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run("a", shares(70), finished=False), make_run("b", shares(90), finished=False, base_lr=0.1)
    assert main(["compare", str(a), str(b)]) == 0
    out, err = capsys.readouterr()
    assert "Not decided between a and b: there is no test. a is not finished, so" in out
    assert "this command" not in err


def test_a_configuration_that_is_not_known_differs_in_nothing(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(name, shares(70), base_lr=rate) for name, rate in (("a", 0.1), ("b", 0.2), ("c", 0.1))]
    record = json.loads((runs[2] / "run.json").read_text())
    del record["configuration"]
    (runs[2] / "run.json").write_text(json.dumps(record))
    assert differing_keys(found(*runs)[0]) == {"base_lr": [[0.1], [0.2], []]}
    assert main(["compare", *map(str, runs)]) == 0
    assert re.search(r"^base_lr +0\.1 +0\.2 +–$", capsys.readouterr().out, re.MULTILINE)


def test_the_default_of_an_earlier_version_is_no_difference(make_run: MakeRun) -> None:
    limits = {"a": 178_956_970, "b": 0, "c": 1000}  # the default until max_pixels had 0; the default; a choice
    runs = [make_run(name, max_pixels=limit, seed=seed) for seed, (name, limit) in enumerate(limits.items())]
    groups, _ = found(*runs)
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"]]
    assert differing_keys(groups)["max_pixels"] == [[0], [1000]]


def test_a_seed_that_is_half_trained_is_left_out_of_mean_and_test(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [make_run(f"a{seed}", shares(70 + seed), seed=seed) for seed in range(2)]
    half = make_run("a2", shares(10), seed=2, finished=False, epochs=1)
    second = [make_run(f"b{seed}", shares(90 + seed), seed=seed, base_lr=0.1) for seed in range(2)]
    groups, (pair,) = found(half, *first, *second)
    assert [group.name for group in groups] == ["a0 (2 seeds)", "b0 (2 seeds)"]
    assert groups[0].mean(lambda run: run.top1) == pytest.approx(0.705)
    assert groups[0].mean(lambda run: run.steps) == 10
    assert groups[0].course(lambda run: run.of_weights("top1")) == [
        (1, pytest.approx(0.3525)),
        (2, pytest.approx(0.705)),
    ]
    assert pair.value == pair.seeds.value == pytest.approx(0.2)
    assert pair.images.value == pytest.approx(0.2)
    assert main(["compare", *map(str, (half, *first, *second))]) == 0
    out, err = capsys.readouterr()
    assert "Left out of all numbers of a0 (2 seeds), because not finished: a2." in err
    assert "b0 (2 seeds) is better than a0 (2 seeds)" in out
    page = words_of(Path("comparison.html").read_text(encoding="utf-8"))
    assert re.search(r"a0 \(2 seeds\) a2 2 10\.00 % \S+ 10 left out: not finished", page)
    assert "seed 0, 1 0, 1" in page


def test_a_history_is_parsed_once(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def counts(text: str | None) -> float | None:
        seen.append(text)
        return float(text) if text else None

    monkeypatch.setattr(run_files, "_number", counts)
    groups, pairs = found(make_run("a", shares(70)), make_run("b", shares(90), base_lr=0.1))
    comparison_page(groups, pairs)
    columns = ("val_top1", "val_loss", "train_loss", "images_per_second", "seconds", "step", "epoch of each of these")
    assert len(seen) <= 2 * 2 * 2 * len(columns)  # of 2 runs, 2 epochs, with the epoch beside each value
    before = len(seen)
    comparison_page(groups, pairs)
    assert len(seen) == before


def test_a_run_of_an_older_version_and_the_advice_for_it(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make_run("a", shares(70)), make_run("b", shares(90), answers=False, base_lr=0.1, amp_level="bf16")
    assert main(["compare", str(a), str(b)]) == 0
    err = capsys.readouterr().err
    assert "b has no answers.npy" in err
    assert "b: the checkpoint of its last evaluation was not found" in err
    checkpoint = Path("runs/checkpoints/b/t2t_vit_quickstart-2_10.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (checkpoint.parent / "t2t_vit_quickstart-1_5.ckpt").touch()
    assert main(["compare", str(a), str(b)]) == 0
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if "this command adds the answers" in line]
    words = shlex.split(line.partition("started in: ")[2])
    assert words == [
        "t2t-vit", "eval", "--pretrained", str(checkpoint), "--amp_level", "bf16", "--answers",
        "runs/logs/b/answers.npy",
    ]  # fmt: skip
    monkeypatch.chdir("runs")  # the run is found from elsewhere, too
    assert main(["compare", "logs/a", "logs/b"]) == 0
    assert f"--pretrained {checkpoint.relative_to('runs')} " in capsys.readouterr().err


def test_parts_that_seeds_drew_are_explained_and_how_to_answer_all(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {"val_num_samples": 100, "split_seed": 0}
    a = make_run("a", shares(70), seed=0, **part)
    b = make_run("b", shares(90), seed=1, images=range(50, 150), base_lr=0.1, **part)
    for name in "ab":
        checkpoint = Path(f"runs/checkpoints/{name}/t2t_vit_quickstart-2_10.ckpt")
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    assert main(["compare", str(a), str(b)]) == 0
    err = capsys.readouterr().err
    assert "not paired: with val_num_samples, each seed draws other images (--val_seed 0: the same)." in err
    lines = [line for line in err.splitlines() if "replaces the answers by answers to all validation images" in line]
    assert [shlex.split(line.partition("started in: ")[2])[-4:] for line in lines] == [
        ["--val_num_samples", "-1", "--answers", f"runs/logs/{name}/answers.npy"] for name in "ab"
    ]
    c = make_run("c", shares(90), seed=0, images=range(50, 150), base_lr=0.1, **part)
    assert main(["compare", str(a), str(c)]) == 0  # one seed: the data are others
    assert "each seed draws" not in capsys.readouterr().err
    part["val_seed"] = 3
    d = make_run("d", shares(70), seed=0, **part)
    e = make_run("e", shares(90), seed=1, images=range(50, 150), base_lr=0.1, **part)
    assert main(["compare", str(d), str(e)]) == 0  # one seed of the images: the data are others
    assert "each seed draws" not in capsys.readouterr().err


def test_runs_with_other_shares_for_validation_are_told_how_to_be_paired(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """`scratch` keeps 0.2 of each class, `finetune` 0.15."""
    a = make_run("a", shares(70), val_split=0.2)
    b = make_run("b", shares(90)[:75], images=range(75), val_split=0.15, base_lr=0.1)
    assert main(["compare", str(a), str(b)]) == 0
    sentence = "(100 and 75, 75 in common), so their answers are not paired; to pair them, train both with the same"
    assert f"{sentence} val_split." in capsys.readouterr().err
    c = make_run("c", shares(90), val_split=0.2, base_lr=0.1)
    assert main(["compare", str(a), str(c)]) == 0
    assert "c is better than a" in capsys.readouterr().out
    part = {"val_num_samples": 50, "val_split": 0.15}
    d = make_run("d", shares(70), val_num_samples=50, val_split=0.2, seed=0)
    e = make_run("e", shares(70), images=range(9, 109), **part, seed=1)
    assert main(["compare", str(d), str(e)]) == 0
    assert "train both with the same val_split and val_seed." in capsys.readouterr().err
    record = json.loads((e / "run.json").read_text())
    del record["configuration"]
    (e / "run.json").write_text(json.dumps(record))
    assert main(["compare", str(d), str(e)]) == 0
    err = capsys.readouterr().err
    assert "91 in common), so their answers are not paired.\n" in err and "answers to all validation" not in err


def test_answers_of_another_evaluation_are_named(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = make_run("a", shares(70)), make_run("b", shares(90), base_lr=0.1), make_run("c", shares(50), base_lr=0.2)
    (b / "answers.npy").write_bytes((c / "answers.npy").read_bytes())
    assert main(["compare", str(a), str(b)]) == 0
    assert "The answers of b come from another evaluation (50.00 % top-1) than its figures (90.00 %)" in (
        capsys.readouterr().err
    )


def test_json(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run("a", shares(70)), make_run("b", shares(90), base_lr=0.1)
    assert main(["compare", str(a), str(b), "--json", "--output", "page.html"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["page"] == "page.html"
    assert content["headline"].startswith("b is better than a")
    (pair,) = content["pairs"]
    assert (pair["verdict"], pair["images"]["value"]) == ("better", pytest.approx(0.2))
    assert [run["seconds"] for group in content["groups"] for run in group["runs"]] == [20, 20]
    assert Path("page.html").is_file()
    assert not Path("comparison.html").exists()


def test_the_page_shows_what_differs_and_nothing_else(make_run: MakeRun) -> None:
    a = make_run("a", shares(70), seconds=10.0, model_postfix="x")
    b = make_run("b", shares(90), seconds=30.0, mixup=0.2, mean=(0.5,), logs_root_dir="elsewhere")
    page = comparison_page(*found(a, b))
    configuration = words_of(page.partition("<h2>Configuration</h2>")[2])
    assert "mixup 0.8 0.2" in configuration
    assert "mean 0.485 0.456 0.406 0.5" in configuration
    assert "model_postfix" not in configuration
    assert "logs_root_dir" not in configuration
    cost = words_of(page.partition("<h2>Cost</h2>")[2].partition("<section>")[0])
    assert "a 20 100 10 1,000" in cost
    assert "b 60 100 10 1,000" in cost
    classes = words_of(page.partition("<h2>Accuracy by class</h2>")[2].partition("<section>")[0])
    assert "cat 70.0 % 90.0 % 20.0" in classes
    assert "://" not in page


def test_names_are_shown_as_text(make_run: MakeRun) -> None:
    name = "<img src=x onerror=alert(1)>{{ 7 * 7 }}"
    a, b = make_run("a", shares(70)), make_run("b", shares(90), base_lr=0.1)
    record = json.loads((b / "run.json").read_text()) | {"name": name}
    (b / "run.json").write_text(json.dumps(record))
    page = comparison_page(*found(a, b))
    assert "<img" not in page
    assert "49" not in re.sub(r"points=\"[^\"]*\"", "", page.partition("</style>")[2].partition("<section>")[0])
    assert "&lt;img src=x onerror=alert(1)&gt;{{ 7 * 7 }}" in page


def test_runs_of_one_name_are_told_apart_by_their_paths(make_run: MakeRun) -> None:
    first, second = (
        make_run("net", shares(70), folder=Path("sweep") / trial / "logs", base_lr=lr)
        for trial, lr in (("0001", 0.1), ("0002", 0.2))
    )
    assert [run.name for run in read_runs([first, second])] == ["0001", "0002"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs/logs/a"], "compare needs at least two runs, but got only"),
        (["runs/logs/a", "runs/logs/a"], "runs/logs/a: is the run of runs/logs/a"),
        (["runs/logs/a", "nowhere"], "nowhere: is not a folder"),
        (["runs/logs/a", "runs"], "runs: holds no history.csv and no checkpoint"),
        (["runs/logs/a", "runs/logs/b", "--output", "runs"], "is a folder"),
        (["--json"], "compare needs something to work on: RUN RUN ..."),
    ],
)
def test_mistakes(make_run: MakeRun, words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run("a"), make_run("b", base_lr=0.1)
    assert main(["compare", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert not Path("comparison.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", '{"configuration": 3}'),
        ("run.json", '{"configuration": [{"keys": [{}]}]}'),
        ("run.json", '{"configuration": [{"keys": [{"key": "ckpt_root_dir", "value": 3}]}]}'),
        ("run.json", '{"configuration": [{"keys": [{"key": ["x"], "value": 3}]}]}'),
        ("run.json", '{"parameters": "many"}'),
        ("evaluation.json", '{"top1": 0.5}'),
        ("evaluation.json", '{"weights": "raw", "top1": NaN, "loss": 1, "classes": [], "class_scores": []}'),
        ("evaluation.json", '{"weights": "raw", "top1": 0.5, "loss": 1, "classes": ["a"], "class_scores": []}'),
        ("answers.npy", "no array"),
    ],
)
def test_damaged_files_are_one_sentence(
    make_run: MakeRun, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_run("a"), make_run("b", base_lr=0.1)
    (b / name).write_text(content)
    assert main(["compare", str(a), str(b)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("t2t-vit: runs/logs/b")
    assert err.count("\n") == 1


def test_a_history_with_infinite_numbers_is_one_sentence(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run("a"), make_run("b", base_lr=0.1)
    history = b / "history.csv"
    rows = history.read_text(encoding="utf-8").splitlines()
    column = rows[0].split(",").index("train_loss")
    rows[1:] = [",".join("inf" if n == column else cell for n, cell in enumerate(row.split(","))) for row in rows[1:]]
    history.write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert main(["compare", str(a), str(b)]) == 2
    assert re.search(r"not in the form that a run writes \(OverflowError.*\)\n$", capsys.readouterr().err)


@pytest.mark.parametrize("value", [[2], "2", None])
def test_a_count_of_images_that_is_no_number_is_a_sentence(make_run: MakeRun, value: object) -> None:
    folder = make_run("a")
    record = json.loads((folder / "run.json").read_text())
    (key,) = [each for part in record["configuration"] for each in part["keys"] if each["key"] == "val_num_samples"]
    key["value"] = value
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=r"is not as a run writes it \(ValueError: val_num_samples is not a whole number"
    ):
        read_runs([folder])
