"""Text to values: one grammar for the command line and the file."""

import importlib

import pytest

from t2t_vit.settings.names import nearest_key
from t2t_vit.settings.schema import KEYS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("base_lr", "5e-4", 5e-4),
        ("base_lr", ".5", 0.5),
        ("base_lr", "1", 1.0),
        ("eps", "1.0E-8", 1e-8),
        ("epochs", "010", 10),
        ("train_num_samples", "-1", -1),
        *(("with_ema", text, True) for text in ("True", "true", "yes", "1", "on", "YES")),
        *(("with_ema", text, False) for text in ("False", "false", "no", "0", "off")),
        *(
            ("beta", text, (0.9, 0.95))
            for text in ("[0.9, 0.95]", "[0.9,0.95]", "(0.9 0.95)", "0.9 0.95", "0.9,0.95", ["0.9", ".95"], "[.9,.95,]")
        ),
        ("mean", "0.5", (0.5,)),
        ("mean", "0.5 0.4 0.3", (0.5, 0.4, 0.3)),
        *(("image_size", text, (96, 160)) for text in ("96 160", "[96,160]", "96x160", ["96", "160"])),
        *(("image_size", text, 224) for text in ("224", "[224]", ["224"])),
        ("auto_augment", "", ""),
        ("model_postfix", "0", "0"),
    ],
)
def test_text_that_is_understood(name: str, text: str | list[str], value: object) -> None:
    read = KEYS[name].read(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("epochs", text) for text in ("abc", "", "1.0", "1e3", "0x10", "1:30", "1_000", "0", "-3", "9" * 5000, "٣")),
        *(("base_lr", text) for text in ("nan", "inf", "-inf", ".inf", "1e999", "1_0", "abc", "", "0", "-1")),
        *(("with_ema", text) for text in ("2", "maybe", "", "t")),
        *(("beta", text) for text in ("0.9", "0.9 0.95 0.99", "0.9 1.0", "a b", "", "[0.9")),
        *(("image_size", text) for text in ("4", "1 2 3", "96.0", "axb", "96x", "-224")),
        *(("mean", text) for text in ("", "2", "0.5 x")),
        ("epochs", ["3"]),
        ("dataset", "imagenet"),
        ("in_chans", "2"),
        ("optimizer", "Adam W"),
        ("data_url", "a\0b"),
    ],
)
def test_text_that_is_refused(name: str, text: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"^takes .*; not '"):
        KEYS[name].read(text)


def test_the_nearest_choice_is_suggested() -> None:
    with pytest.raises(ValueError, match="did you mean 't2t_vit_t_14'"):
        KEYS["arch"].read("T2T_ViT_T14")
    with pytest.raises(ValueError, match="did you mean 'GPU'"):
        KEYS["device_target"].read("gpu")


def test_home_is_expanded_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert KEYS["data_url"].read("~/imagenet/") == "/home/me/imagenet/"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("epoch", "epochs"),
        ("batch-size", "batch_size"),
        ("lr", "base_lr"),
        ("checkpoint", "pretrained"),
        ("EPS", "eps"),
    ],
)
def test_nearest_keys(wrong: str, right: str) -> None:
    assert nearest_key(wrong, KEYS) == right


POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand",
    "rand-m7-n3-p0.8-mmax12",
    "rand-mstd1-tweights",
    "rand-t3a",
    "original",
    "original-mstd0.5",
    "originalr",
    "v0",
    "v0r",
    "3a",
    "augmix-m5-w4",
    "augmix-m5-w4-d2-a0.5-b1-mstd1",
)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_of_timm_are_allowed(policy: str) -> None:
    assert KEYS["auto_augment"].read(policy) == policy


def test_timm_itself_understands_what_is_allowed() -> None:
    augment = importlib.import_module("timm.data.auto_augment")
    makers = {"rand": augment.rand_augment_transform, "augmix": augment.augment_and_mix_transform}
    for policy in POLICIES:
        makers.get(policy.partition("-")[0], augment.auto_augment_transform)(policy, {})


@pytest.mark.parametrize(
    "policy",
    ["random", "rand-x9", "rand-m", "rand-m.5", "rand_m9", "v1", "original-m9", "augmix-n3", "rand-m9-", "none"],
)
def test_other_policies_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="takes a policy such as rand-m9"):
        KEYS["auto_augment"].read(policy)
