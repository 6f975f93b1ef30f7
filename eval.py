"""Measure a checkpoint on the validation images: the same as `t2t-vit eval`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout that is not installed

from t2t_vit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
