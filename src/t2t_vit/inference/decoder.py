"""The work of a decoding process: paths or encoded images in, pixels or reasons out.

It imports no torch, so that it starts in a moment and takes little memory.
"""

import signal
from multiprocessing.connection import Connection

from t2t_vit.data.decode import DecodeError, decode
from t2t_vit.data.preprocessing import Preprocessing

PIXELS, REASON = b"x", b"r"
NO_MEMORY = "it does not fit into memory"


def serve(connection: Connection, preprocessing: Preprocessing) -> None:
    """Say that it is there, and then answer until the other side closes, or dies.

    For a list of sources (paths, or bytes) there is one answer each, in order.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process ends its own
    try:
        connection.send_bytes(b"")
        while True:
            for source in connection.recv():
                connection.send_bytes(_answer(source, preprocessing))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(source: str | bytes, preprocessing: Preprocessing) -> bytes:
    try:
        return PIXELS + preprocessing.pixels(decode(source, preprocessing.mode)).tobytes()
    except DecodeError as error:
        return REASON + str(error).encode("utf-8", "backslashreplace")
    except MemoryError:
        return REASON + NO_MEMORY.encode()
