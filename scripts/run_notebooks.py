"""Run the notebooks of docs/notebooks from the first cell to the last, and write them with their results.

    make notebooks                        # or: python scripts/run_notebooks.py [NAME ...]

Each runs in its own folder, build/notebooks/NAME, next to NAME.ipynb. The exit code is 1 if a cell fails.
"""

import shutil
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
SOURCE, RESULTS = ROOT / "docs/notebooks", ROOT / "build/notebooks"
SECONDS = 1800  # of a cell, on a busy machine


def run(source: Path) -> bool:
    """Run one notebook; whether all of its cells did."""
    notebook = jupytext.read(source)
    folder = RESULTS / source.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=40"],  # else each kernel warns that its local connection is plain
    )
    start = time.monotonic()
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{source.name}: {error}", file=sys.stderr)
        return False
    finally:
        nbformat.write(notebook, RESULTS / f"{source.stem}.ipynb")
    figures = sum(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    print(
        f"{source.stem}: {len(notebook.cells)} cells, {figures} figures, {time.monotonic() - start:.0f} s", flush=True
    )
    return True


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in SOURCE.glob("*.py"))
    failed = [name for name in names if not run(SOURCE / f"{name}.py")]
    sys.exit(bool(failed))
