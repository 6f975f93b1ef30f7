"""The run in TensorBoard."""

import threading
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from t2t_vit.errors import UserError


class TensorBoard:
    """A tracker that writes event files into `folder`.

    Args:
        first_step: updates made before this run begins; what an earlier run in the same folder, or the part of this
            one that is done again, showed from here on, disappears from the charts.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        try:
            self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else 0)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); name another summary_root_dir") from error
        self._others, threading.excepthook = threading.excepthook, self._thread_failed

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: Tensor) -> None:
        self._writer.add_image(name, picture, step)

    def graph(self, graph: GraphDef) -> None:
        """The network, for the tab Graphs."""
        writer = self._writer._get_file_writer()  # type: ignore[no-untyped-call]
        writer.add_event(Event(graph_def=graph.SerializeToString()))

    def close(self) -> None:
        self._writer.close()
        threading.excepthook = self._others

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """The writer's thread hands its failure to the next call here; printing it as well would look like a crash."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._others(failure)
