import subprocess
import sys

import t2t_vit


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, t2t_vit; print([m for m in ('torch', 'numpy', 'yaml', 'rich', 'timm', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in t2t_vit.__all__:
        assert getattr(t2t_vit, name) is not None
    assert set(dir(t2t_vit)) == set(t2t_vit.__all__)
