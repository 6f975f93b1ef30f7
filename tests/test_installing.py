"""What is advised to install is on a package index, and is what the extra needs."""

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from t2t_vit.installing import install_command, packages_of

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_packages_of_every_extra_are_named_and_never_ours(extra: str) -> None:
    own = [package for package in EXTRAS[extra] if not package.startswith("t2t_vit")]
    assert set(own) <= set(packages_of(extra))
    assert not any(package.startswith("t2t_vit") for package in packages_of(extra))
    assert len(set(packages_of(extra))) == len(packages_of(extra))


def test_an_extra_within_an_extra() -> None:
    assert packages_of("openvino") == [*EXTRAS["export"], *EXTRAS["openvino"][1:]]
    assert install_command("report") == f'pip install "{EXTRAS["report"][0]}"'


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr("t2t_vit.installing.requires", absent)
    assert install_command("export") == 'pip install -e ".[export]" in the checkout of t2t_vit'
