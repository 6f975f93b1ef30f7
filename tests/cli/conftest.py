from collections.abc import Callable, Iterator

import pytest
import torch

from t2t_vit.cli.main import main


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine would take most of the time of so small a network."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command in this process: its words -> its exit code, and what it printed on standard output and error."""

    def run(*line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(line)
        out, err = capsys.readouterr()
        return code, out, err

    return run
