"""The authors' networks, from a checkout of github.com/yitu-opensource/T2T-ViT at a path; nothing in it is changed.

Their code was written for timm 0.3.4; the module names it asks for that today's timm has moved are put in place while
it is imported. How it computes is untouched.
"""

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

# What the authors' files import, and where it is today; a name that is gone stands for what they never call here.
_MOVED = {
    "timm.models.helpers": (("load_pretrained", None),),
    "timm.models.registry": (("register_model", "timm.models.register_model"),),
    "timm.models.layers": (("trunc_normal_", "timm.layers.trunc_normal_"), ("DropPath", "timm.layers.DropPath")),
}


def authors_model(checkout: Path, name: str, image_size: int = 224) -> nn.Module:
    """The network `name`, randomly initialised, as the authors' own constructor makes it.

    Raises:
        SystemExit: the folder is no checkout of theirs.
    """
    if not (checkout / "models" / "t2t_vit.py").exists():
        raise SystemExit(
            f"--reference {checkout}: no models/t2t_vit.py in it; name a checkout of the authors' repository"
        )
    with _old_names(), _first_on_path(checkout), contextlib.redirect_stdout(io.StringIO()):
        module = importlib.import_module("models.t2t_vit")
        return getattr(module, name)(img_size=image_size)


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """timm's former module names, as long as the authors' files are imported."""
    before = {name: sys.modules.get(name) for name in _MOVED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm registers their names over nothing and says so
        for name, members in _MOVED.items():
            module = ModuleType(name)
            for member, place in members:
                setattr(module, member, _found(place) if place else None)
            sys.modules[name] = module
        try:
            yield
        finally:
            for name, module_before in before.items():
                if module_before is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module_before


def _found(place: str) -> object:
    module, member = place.rsplit(".", 1)
    return getattr(importlib.import_module(module), member)
