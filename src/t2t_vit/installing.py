"""The command that installs what is missing.

No package index has this package, so a command that named it would find nothing, or a stranger's. What an extra needs
stands in the metadata of the installed package, and those packages are on the index.
"""

import re
from importlib.metadata import PackageNotFoundError, requires

_OF_EXTRA = re.compile(r"(?P<needed>[^;]+);.*\bextra\s*==\s*['\"](?P<extra>[\w-]+)['\"]")
_OWN = re.compile(r"t2t[-_.]vit\[(?P<extras>[^]]+)\]", re.IGNORECASE)


def install_command(extra: str) -> str:
    """`pip install "onnx>=1.19" ...`: what the extra of that name needs, and what the extras in it need."""
    names = " ".join(f'"{package}"' for package in packages_of(extra))
    return f"pip install {names}" if names else f'pip install -e ".[{extra}]" in the checkout of t2t_vit'


def packages_of(extra: str) -> list[str]:
    """The requirements of an extra, each once; empty where the package runs without being installed."""
    try:
        lines = requires("t2t_vit") or []
    except PackageNotFoundError:
        return []
    found: dict[str, None] = {}
    for line in lines:
        match = _OF_EXTRA.fullmatch(line.strip())
        if match is None or match["extra"] != extra:
            continue
        needed = match["needed"].strip()
        own = _OWN.fullmatch(needed)
        parts = [each for name in own["extras"].split(",") for each in packages_of(name)] if own else [needed]
        found |= dict.fromkeys(parts)
    return list(found)


def not_installed(what: str, extra: str) -> str:
    """The sentence on a package that is missing."""
    return f"{what} is not installed; install it with: {install_command(extra)}"
