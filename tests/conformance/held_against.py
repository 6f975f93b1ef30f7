"""Run by MindSpore's Python: what the real package makes of our files. Prints one JSON object.

    python held_against.py FOLDER

For each `X.mindir` of the folder there are `X.npy`, six images as it takes them, and `X.ckpt`, other weights for the
same network. Made are `X.logits.npy` by its own weights, `X.initialised.npy` and `X.loaded.npy` by the others', given
as `params_init` and to `load_param_into_net`, and `X.saved.ckpt`, these as MindSpore saves them.
"""

import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore.train import serialization

# MindSpore takes the system's file cache for used memory, and refuses a .ckpt where little else is free.
serialization._get_available_memory = lambda: None


def run(network: ms.nn.Cell, images: np.ndarray) -> np.ndarray:
    parts = np.split(images, [1, 4])  # of one, three and two
    return np.concatenate([network(ms.Tensor(part.copy())).asnumpy() for part in parts])


def hold(path: Path) -> dict:
    images, weights = np.load(path.with_suffix(".npy")), ms.load_checkpoint(str(path.with_suffix(".ckpt")))
    network = ms.nn.GraphCell(ms.load(str(path)))
    shapes = {one.name: list(one.shape) for one in network.get_parameters()}
    np.save(path.with_suffix(".logits.npy"), run(network, images))
    unloaded = ms.load_param_into_net(network, weights)
    np.save(path.with_suffix(".loaded.npy"), run(network, images))
    initialised = ms.nn.GraphCell(ms.load(str(path)), params_init=weights)
    np.save(path.with_suffix(".initialised.npy"), run(initialised, images))
    ms.save_checkpoint(network, str(path.with_suffix(".saved.ckpt")))
    return {"shapes": shapes, "unloaded": [list(names) for names in unloaded]}


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("*.mindir"))
    sys.stdout.write(json.dumps({path.stem: hold(path) for path in paths}) + "\n")
