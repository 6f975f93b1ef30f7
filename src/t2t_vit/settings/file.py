"""A configuration file, found by path or by the name of a shipped one, read strictly, and written.

Scalars are taken as the text that stands in the file, never through YAML's own types, under which `5e-4` is a string
and `1:30` ninety: the same rules read a file and a command line.
"""

import errno
import math
import os
import select
from difflib import get_close_matches
from pathlib import Path
from shlex import quote

import yaml

from t2t_vit.errors import UserError, printable
from t2t_vit.platforms import NOT_BLOCKING
from t2t_vit.settings.names import nearest_key
from t2t_vit.settings.schema import KEYS, SECTIONS, Config
from t2t_vit.settings.values import Value
from t2t_vit.variants import VARIANTS

SHIPPED = Path(__file__).parents[1] / "configs"
EMPTY = ("", "~", "null", "Null", "NULL")
WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors", ".tar", ".bin", ".onnx")
LARGEST = 100_000  # bytes of a file; a long one has about 5,000, and parsing YAML of this size takes seconds
PATIENCE = 5.0  # seconds to wait for data in a pipe


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_config(name: str) -> Path:
    """The file that `name` means: a path, or the bare name of a shipped configuration, with or without `.yaml`.

    Raises:
        UserError: there is none.
    """
    if not name:
        raise UserError("the configuration has an empty name; give a YAML file or the name of a shipped one")
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        return path
    shipped = SHIPPED / (path.stem if path.suffix in (".yaml", ".yml") else path.name)
    shipped = shipped.with_name(shipped.name + ".yaml")
    if len(path.parts) == 1 and shipped.exists():
        return shipped
    if path.is_dir():
        raise UserError(f"{name} is a folder, but a configuration is a YAML file; {images_are_named(name)}")
    raise UserError(f"configuration {name} does not exist; {_instead(path)}")


def images_are_named(folder: str) -> str:
    """What to write in place of a word that names a folder of images."""
    return (
        f"give images with --data_url {quote(folder)} (to train on your own: t2t-vit train scratch --data_url "
        f"{quote(folder)})"
    )


def _instead(path: Path) -> str:
    """What to write in place of a name that no configuration has."""
    if path.name in VARIANTS:
        return f"{path.name} is a network; write --arch {path.name} together with a configuration, such as scratch"
    if path.suffix.lower() in WEIGHTS:
        return f"give weights with --pretrained {quote(str(path))}"
    close = get_close_matches(path.stem.lower(), shipped_configs(), n=1, cutoff=0.75)
    return (
        f"the nearest shipped one is called {close[0]}"
        if close
        else f"the shipped ones are {', '.join(shipped_configs())}"
    )


def read_config(path: Path) -> dict[str, Value]:
    """Keys and values of a configuration file.

    Raises:
        UserError: the file cannot be read, is not a mapping of keys to values, names a key twice or one that does not
            exist, or a value is of the wrong type or out of range; the sentence names the line.
    """
    values: dict[str, Value] = {}
    for name_node, value_node in _mapping(path):
        where, name = f"{path}:{name_node.start_mark.line + 1}", name_node.value
        if not isinstance(name, str):
            raise UserError(f"{where}: a key is one word; write lines such as 'epochs: 10'")
        if name not in KEYS:
            raise UserError(f"{where}: unknown key '{name}'; did you mean '{nearest_key(name, KEYS)}'?")
        if name in values:
            raise UserError(f"{where}: the key '{name}' appears twice; keep one of them")
        text = _text(value_node)
        if text is None:
            raise UserError(f"{where}: {name} takes one value or a flat list, not a nested one")
        try:
            values[name] = KEYS[name].read(text)
        except ValueError as error:
            raise UserError(f"{where}: {name} {error}") from None
    return values


def to_yaml(config: Config) -> str:
    """The whole configuration under the headings of its sections; reading it gives an equal configuration."""
    values = config.to_dict()
    return "\n".join(
        f"# ===== {title} ===== #\n" + "".join(_entry(name, KEYS[name].written(values[name])) for name in names)
        for title, names in SECTIONS.items()
    )


def _entry(name: str, value: object) -> str:
    """`name: value` or `name: [value, value]`."""
    style = None if isinstance(value, list) else False
    is_harmless = printable(str(value)) == str(value)  # for a terminal, which may display the file
    return yaml.safe_dump({name: value}, allow_unicode=is_harmless, default_flow_style=style, width=math.inf)


def _mapping(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    try:
        root = yaml.compose(_read_text(path), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise UserError(f"{path}: not valid YAML: it holds characters or nesting that YAML does not allow") from None
    if root is None:
        raise UserError(f"{path}: contains no keys; write lines such as 'epochs: 10'")
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: is not a mapping of keys to values; write lines such as 'epochs: 10'")
    pairs: list[tuple[yaml.Node, yaml.Node]] = root.value
    return pairs


def _read_text(path: Path) -> str:
    try:
        content = _read_bytes(path)
        if len(content) > LARGEST:
            raise UserError(
                f"{path}: is not a configuration: it has more than {LARGEST:,} bytes (give a checkpoint with "
                "--pretrained)"
            )
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: is not text in UTF-8; a configuration is a YAML file (give a checkpoint with --pretrained)"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read_bytes(path: Path) -> bytes:
    """Up to LARGEST + 1 bytes. A pipe (`train <(program)`) is read to its end, where it does not keep silent.

    Raises:
        OSError: it cannot be read, or nothing comes.
    """
    if not path.is_fifo():
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    descriptor, content = os.open(path, os.O_RDONLY | NOT_BLOCKING), b""
    try:
        while len(content) <= LARGEST:
            if not select.select([descriptor], [], [], PATIENCE)[0]:
                raise OSError(errno.ETIMEDOUT, f"no data came through this pipe for {PATIENCE:g} seconds")
            piece = os.read(descriptor, LARGEST + 1)
            if not piece:
                break
            content += piece
    finally:
        os.close(descriptor)
    return content


def _text(node: yaml.Node) -> str | list[str] | None:
    """A scalar's text, or the texts of a flat list; None for what is nested deeper."""
    if isinstance(node, yaml.ScalarNode):
        return "" if node.style is None and node.value in EMPTY else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    return None
