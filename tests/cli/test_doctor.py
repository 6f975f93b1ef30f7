"""`t2t-vit doctor`: complete, readable by programs, and nothing in it that says who or where."""

import getpass
import json
import platform
from pathlib import Path

import pytest

from t2t_vit.cli import doctor
from t2t_vit.cli.main import main
from t2t_vit.fast import kernels
from t2t_vit.platforms import machine_memory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling anything takes seconds, and is tested elsewhere."""
    monkeypatch.setattr(doctor, "unavailable", lambda: None)
    monkeypatch.setattr(doctor, "obstacle_to_compiling", lambda _: "")


def test_json_and_text_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert set(found) == {
        "versions", "processor", "kernels", "devices", "compiler", "memory", "limits of the container or job",
    }  # fmt: skip
    assert found["versions"]["python"] == platform.python_version()
    assert found["kernels"]["pack"] == "compiled for this processor"
    assert found["memory"]["free for this process"] > 0
    for section, facts in found.items():
        assert f"\n{section}\n" in f"\n{text}"
        for name, value in facts.items():
            assert f"\n  {name} " in text
            assert not isinstance(value, str) or value in text


def test_nothing_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("T2T_VIT_CACHE", str(home / "secret-cache"))
    monkeypatch.setattr(platform, "node", lambda: "a-host-of-mine")
    monkeypatch.setattr(
        doctor, "unavailable", lambda: f"compiling them with {home}/bin/g++ fails ({home}/t2t_vit/linear.cpp:3: no)"
    )
    for words in (["doctor"], ["doctor", "--json"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        for private in (str(tmp_path), "somebody", "secret-cache", "a-host-of-mine", str(Path(__file__).parents[2])):
            assert private not in out
        user = getpass.getuser()
        assert user not in out.replace("torch", "") or len(user) < 4


def test_the_advice_prints_the_compilers_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "compiling them with /usr/bin/g++ fails (linear.cpp:3: no such instruction)"
    monkeypatch.setattr(doctor, "unavailable", lambda: reason)
    monkeypatch.setattr(kernels, "unavailable", lambda: reason)
    said = doctor.examine()["kernels"]["pack"]
    assert said == "not available: compiling fails; t2t-vit bench model --kernels native prints the compiler's message"
    command = str(said).partition("; t2t-vit ")[2].partition(" prints")[0].split()
    assert main([*command, "--device", "cpu", "--arch", "t2t_vit_quickstart"]) == 2
    assert reason in capsys.readouterr().err


def test_a_wrong_switch_is_a_fact_and_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from t2t_vit.fast.native.processor import cpu_level

    monkeypatch.setenv("T2T_VIT_CPU", "huge")
    cpu_level.cache_clear()
    try:
        assert main(["doctor"]) == 0
    finally:
        monkeypatch.delenv("T2T_VIT_CPU")
        cpu_level.cache_clear()
    assert "'huge' is not one of none, avx2" in capsys.readouterr().out


def test_limits_of_a_container(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/job/step"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    (group / "memory.max").write_text("max\n")
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "memory.max").write_text(f"{3 * 2**30}\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    (group.parent / "pids.max").write_text("512\n")
    found = doctor.examine(tmp_path)
    limits = found["limits of the container or job"]
    assert (limits["memory"], limits["processors"], limits["processes"]) == (3 * 2**30, 1.5, 512)
    assert found["memory"]["of the machine"] == machine_memory() > 2**28
    assert found["memory"]["free for this process"] == 3 * 2**30
    assert found["memory"]["/dev/shm"] is None
    assert doctor.shown("memory", limits["memory"]) == "3 GiB"
    assert doctor.shown("open files", 2**20) == "1048576"
