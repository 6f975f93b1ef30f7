from pathlib import Path

import pytest

from t2t_vit.data import memory
from t2t_vit.data.memory import budget_of, free_memory, shown_bytes


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_sizes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 4000)
    known = {"off": 0, "auto": 1000, "1.5GiB": 3 * 2**29, "500MB": 500_000_000, "2kb": 2000, "0TB": 0}
    units = {"3GB": 3 * 10**9, "2tb": 2 * 10**12, "5KiB": 5 * 2**10, "7MiB": 7 * 2**20, "1TiB": 2**40}
    assert {text: budget_of(text) for text in known | units} == known | units


def test_sizes_are_shown() -> None:
    assert [shown_bytes(size) for size in (12, 5000, 2**20 - 10, 3 * 2**29, 2**50)] == [
        "12 bytes",
        "4.88 KiB",
        "1024 KiB",
        "1.5 GiB",
        "1024 TiB",
    ]


def test_this_machine_has_free_memory() -> None:
    assert 2**26 < free_memory() < 2**50


def test_the_machine_and_its_groups_limit_it(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == 0
    write(tmp_path / "proc/meminfo", "MemTotal: 900 kB\nMemAvailable: 800 kB\n")
    assert free_memory(tmp_path) == 800 * 1024
    write(tmp_path / "proc/self/cgroup", "0::/a/job\n")
    group = tmp_path / "sys/fs/cgroup"
    write(group / "a/job/memory.max", "max\n")
    assert free_memory(tmp_path) == 800 * 1024
    write(group / "a/memory.max", "500000\n")
    write(group / "a/memory.stat", "anon 100000\nfile 390000\nshmem 50000\n")  # the file cache gives way
    assert free_memory(tmp_path) == 350000
    write(tmp_path / "proc/self/cgroup", "4:cpu:/x\n3:memory:/job\n")
    write(group / "memory/job/memory.limit_in_bytes", "9000\n")
    write(group / "memory/job/memory.stat", "total_rss 10000\n")
    assert free_memory(tmp_path) == 0
