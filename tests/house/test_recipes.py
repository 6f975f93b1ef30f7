"""The recipes for clusters: what can be checked of them without a cluster, their command lines by our own parser."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from t2t_vit.settings.command_line import read_words
from t2t_vit.settings.commands import COMMANDS

RECIPES = Path(__file__).parents[2] / "recipes"
SBATCH = sorted(RECIPES.glob("*.sbatch"))
LAUNCH = ["python", "-m", "t2t_vit.cli.launch"]


def line_of(path: Path) -> list[str]:
    """The words that a recipe hands to the launcher, with something in place of its variables."""
    if path.suffix == ".yaml":
        container = job()["spec"]["template"]["spec"]["containers"][0]
        assert container["command"] == LAUNCH
        return list(container["args"])
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^srun .*$", text, re.MULTILINE)
    assert line.endswith(' "$@"')
    words = shlex.split(re.sub(r"\$\w+", "4", line.removesuffix(' "$@"')))
    start = words.index(LAUNCH[0])
    assert words[start : start + 3] == LAUNCH
    return words[start + 3 :]


def job() -> dict[str, Any]:
    _, found = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", sorted(RECIPES.iterdir()), ids=lambda path: path.name)
def test_the_line_is_one_that_we_take(path: Path) -> None:
    launcher = get_args_parser().parse_args(line_of(path))
    assert launcher.no_python
    assert launcher.max_restarts > 0
    assert launcher.training_script == "t2t-vit"
    command, *words = launcher.training_script_args
    said, named = read_words(COMMANDS[command], words)
    assert said["resume"] == "auto"
    assert named == ("t2t_vit_14",)
    assert launcher.standalone or (launcher.rdzv_backend, launcher.rdzv_endpoint[-6:]) == ("c10d", ":29500")


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_scripts_of_slurm(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    assert {"nodes", "gpus-per-node", "cpus-per-task", "time", "output", "requeue"} <= options.keys()
    assert options["signal"].startswith("USR1@")
    assert text.index("#SBATCH --output") < text.index("set -u")  # SLURM stops reading at the first command


@pytest.mark.parametrize(("ends_with", "requeued"), [(138, True), (143, False), (0, False), (1, False)])
@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_a_job_whose_time_is_up_is_queued_again(path: Path, ends_with: int, requeued: bool, tmp_path: Path) -> None:
    for name, body in (
        ("srun", f'echo "$@" > line; exit {ends_with}'),
        ("scontrol", 'if [ "$1" = show ]; then echo alpha; echo beta; else echo "$@" > requeued; fi'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    told = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "DATA": "/my images", "SLURM_CPUS_PER_TASK": "8", "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "x",
    }  # fmt: skip
    done = subprocess.run(["bash", path, "--epochs", "3"], env=told, cwd=tmp_path, check=False)
    assert done.returncode == ends_with
    assert (tmp_path / "requeued").exists() == requeued
    line = (tmp_path / "line").read_text()
    assert "--data_url /my images" in line
    assert line.endswith("--resume auto --epochs 3\n")
    assert "multi" not in path.name or ("--nnodes 2 --nproc-per-node 4" in line and "alpha:29500" in line)


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_a_job_in_an_image_and_one_without_data(path: Path, tmp_path: Path) -> None:
    for name, body in (("srun", 'printf "%s\\n" "$@" > line'), ("scontrol", "echo alpha")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    told = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "8", "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "x",
    }  # fmt: skip
    done = subprocess.run(["bash", path], env=told, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DATA: the folder of the images" in done.stderr
    told |= {"DATA": "/my images", "IMAGE": "t2t-vit.sif"}
    subprocess.run(["bash", path], env=told, cwd=tmp_path, check=True)
    words = (tmp_path / "line").read_text().splitlines()
    start = words.index("apptainer")
    assert words[start : start + 7] == [
        "apptainer", "exec", "--nv", "--writable-tmpfs", "--bind", "/my images:/my images:ro", "t2t-vit.sif",
    ]  # fmt: skip
    assert words[start + 7 : start + 10] == LAUNCH


def test_the_job_of_kubernetes() -> None:
    service, _ = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text())
    spec = job()["spec"]
    pod = spec["template"]["spec"]
    launcher = get_args_parser().parse_args(line_of(RECIPES / "kubernetes.yaml"))
    assert (job()["kind"], job()["apiVersion"], spec["completionMode"]) == ("Job", "batch/v1", "Indexed")
    assert spec["completions"] == spec["parallelism"] == int(launcher.nnodes)
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == int(launcher.nproc_per_node)
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert launcher.rdzv_endpoint.startswith(f"{job()['metadata']['name']}-0.{pod['subdomain']}:")
    codes = {code: rule["action"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule
             for code in rule["onExitCodes"]["values"]}  # fmt: skip
    assert codes == {2: "FailJob", 138: "Ignore", 143: "Ignore"}
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
