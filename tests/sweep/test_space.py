"""What `--over` takes, by the rules of the keys themselves."""

from collections.abc import Mapping

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.values import Value
from t2t_vit.sweep.space import Dimension, check_combinations, combination, grid_size, read_over


def test_lists_and_ranges() -> None:
    found = read_over(
        [
            "base_lr=1e-4..1e-2:log", "epochs=5..20", "drop_path=0.0..0.5", "optimizer=adamw, momentum",
            "beta=0.9 0.95,0.9 0.999", "auto_augment=,rand-m9", "image_size=28,32x48", "with_ema=yes,no",
            "crop_schedule=;96:0.6,128:1.0; 96:1", "teacher=timm:resnet18=a.pth,b=c.ckpt",
        ]
    )  # fmt: skip
    assert found[:3] == [
        Dimension("base_lr", (), 1e-4, 1e-2, True), Dimension("epochs", (), 5, 20), Dimension("drop_path", (), 0, 0.5),
    ]  # fmt: skip
    assert [each.values for each in found[3:]] == [
        ("adamw", "momentum"), ("0.9 0.95", "0.9 0.999"), ("", "rand-m9"), ("28", "32x48"), ("yes", "no"),
        ("", "96:0.6,128:1.0", "96:1"), ("timm:resnet18=a.pth", "b=c.ckpt"),
    ]  # fmt: skip
    assert [each.ends for each in found[:3]] == [("0.0001", "0.01"), ("5", "20"), ("0", "0.5")]
    assert [read_over([each.spelt()]) for each in found] == [[each] for each in found]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("base_lr", "--over takes KEY=V1,V2,... or KEY=LOW..HIGH[:log]; not 'base_lr'"),
        ("=3", "--over takes KEY=V1"),
        ("bas_lr=1", "--over: unknown key 'bas_lr'; did you mean 'base_lr'?"),
        ("base_lr=0", "--over base_lr takes a number above 0; not '0'"),
        ("base_lr=0.1,,0.2", "--over base_lr takes a number above 0; not ''"),
        ("base_lr=0..1", "--over base_lr takes a number above 0; not '0'"),
        ("epochs=1.5..3", "--over epochs takes a whole number of at least 1; not '1.5'"),
        ("epochs=3..3", "--over epochs: a range goes from the lower to the higher number; not '3..3'"),
        ("epochs=1..5:lin", "--over epochs takes a range as LOW..HIGH or LOW..HIGH:log; not '1..5:lin'"),
        ("warmup_length=0..5:log", "--over warmup_length: a logarithmic range must begin above 0"),
        (
            "patience=0..5:log",
            "--over patience: a logarithmic range must begin above 0 (whole numbers: at 1 or more), not at 0",
        ),
        ("optimizer=adamw,adamw", "--over optimizer: the value adamw is given twice"),
        ("base_lr=0.1,1e-1", "--over base_lr: the value 1e-1 is given twice"),
        ("arch=resnet", "--over arch takes one of"),
        ("ckpt_root_dir=a,b", "--over ckpt_root_dir: the sweep decides it"),
        ("val_split=0.1,0.2", "--over val_split: it decides what is measured or ranked"),
        ("best_by=top1,loss", "--over best_by: it decides what is measured or ranked"),
    ],
)
def test_mistakes(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read_over([text])
    assert str(caught.value).startswith(sentence)


def test_a_key_twice() -> None:
    with pytest.raises(UserError, match="--over base_lr is given twice; write all its values in one"):
        read_over(["base_lr=0.1", "base_lr=0.2"])


def test_numbers_of_a_range_are_short_and_stay_in_it() -> None:
    (each,) = read_over(["base_lr=0.0010004..0.0029996"])
    assert each.text(0.00123456789) == "0.001235"
    assert each.text(0.0010004) == "0.0010004"  # 0.001 lies below
    assert each.text(0.0029996) == "0.0029996"
    (whole,) = read_over(["epochs=1..100000"])
    assert whole.text(99999) == "99999"
    assert whole.ends == ("1", "100000")


def test_whether_the_configuration_itself_lies_in_the_space() -> None:
    lr, beta = read_over(["base_lr=1e-4..1e-2:log", "beta=0.9 0.95,0.9 0.999"])
    assert (lr.drawn(0.002), lr.drawn(0.5)) == (0.002, None)
    assert (beta.drawn((0.9, 0.999)), beta.drawn((0.8, 0.9))) == ("0.9 0.999", None)


def test_a_grid() -> None:
    both = read_over(["base_lr=0.1,0.2", "epochs=1,2,3"])
    assert grid_size(both) == 6
    assert [combination(both, number) for number in range(4)] == [
        {"base_lr": "0.1", "epochs": "1"}, {"base_lr": "0.1", "epochs": "2"}, {"base_lr": "0.1", "epochs": "3"},
        {"base_lr": "0.2", "epochs": "1"},
    ]  # fmt: skip
    whole = read_over(["base_lr=0.1,0.2", "epochs=5..7"])
    assert grid_size(whole) == 6
    assert combination(whole, 4) == {"base_lr": "0.2", "epochs": 6}
    assert grid_size(read_over(["epochs=1..3", "base_lr=0.1..0.2"])) is None


@pytest.mark.parametrize(
    ("larger", "smaller", "contained"),
    [
        ("base_lr=0.1,0.2,0.3", "base_lr=0.3,0.1", True),
        ("base_lr=0.1,0.2", "base_lr=0.1,0.4", False),
        ("base_lr=0.1..0.9", "base_lr=0.2..0.9", True),
        ("base_lr=0.3..0.9", "base_lr=0.2..0.9", False),
        ("base_lr=0.1..0.9", "base_lr=0.2..0.9:log", False),
        ("base_lr=0.1..0.9", "base_lr=0.2,0.3", False),
        ("epochs=1,2", "base_lr=1,2", False),
    ],
)
def test_whether_a_space_lies_in_another(larger: str, smaller: str, contained: bool) -> None:
    assert read_over([larger])[0].contains(read_over([smaller])[0]) is contained


def test_combinations_are_checked_before_anything_starts() -> None:
    seen: list[Mapping[str, Value]] = []

    def check(values: Mapping[str, Value]) -> None:
        seen.append(values)
        if values["epochs"] == 9 and values["base_lr"] == 0.2:
            raise UserError("that cannot be")

    with pytest.raises(UserError, match=r"with base_lr 0\.2, epochs 9: that cannot be"):
        check_combinations(read_over(["base_lr=0.1,0.2", "epochs=1..9"]), check)
    assert seen[0] == {"base_lr": 0.1, "epochs": 1}
    assert len(seen) == 4
