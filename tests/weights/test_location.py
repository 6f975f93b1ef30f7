"""The authors' weights by the name of the network, from a server on this machine."""

import errno
import functools
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from t2t_vit.errors import OutputError, UserError
from t2t_vit.inference.load import load
from t2t_vit.model import create_model
from t2t_vit.variants import RELEASES, VARIANTS, Release
from t2t_vit.weights import file_kind, location, read_weights

FILE = VARIANTS["t2t_vit_7"].weights_file or ""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_words: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served where the authors' releases are looked for; the cache is `tmp_path`/cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(location, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def publish(folder: Path, arch: str = "t2t_vit_7") -> Path:
    torch.save({"state_dict_ema": create_model(arch).state_dict()}, folder / FILE)
    return folder / FILE


def test_a_network_is_fetched_once(served: Path, tmp_path: Path) -> None:
    published = publish(served)
    weights = read_weights("t2t_vit_7")
    assert weights.path == tmp_path / "cache" / FILE and weights.chosen == "ema"
    published.unlink()
    assert read_weights("t2t_vit_7").tensors.keys() == weights.tensors.keys()
    assert file_kind("t2t_vit_7") == "torch"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["t2t_vit_14_384", "t2t_vit_24_token_labels"])
def test_what_is_released_under_another_name_is_the_network_that_it_is_of(
    served: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At 384 pixels with its positions; with the second head of token labeling, which is left out and named."""
    release = Release("t2t_vit_7", RELEASES[name].file, 84.2)  # a small network stands for the large ones
    monkeypatch.setitem(RELEASES, name, release)
    size = 384 if "384" in name else 224
    tensors = create_model("t2t_vit_7", image_size=size).state_dict()
    if name.endswith("token_labels"):
        tensors |= {"aux_head.weight": torch.zeros(1000, 256), "aux_head.bias": torch.zeros(1000)}
    torch.save({"state_dict_ema": tensors}, served / release.file)
    notes: list[str] = []
    predictor = load(name, note=notes.append)
    assert predictor.preprocessing.image_size == (size, size)
    assert any("not used: aux_head.weight, aux_head.bias" in note for note in notes) == name.endswith("token_labels")


def test_every_release_is_of_a_network_in_the_table() -> None:
    assert {release.arch for release in RELEASES.values()} <= set(VARIANTS)
    assert len({release.file for release in RELEASES.values()}) == len(RELEASES)
    assert {"t2t_vit_14_384", "t2t_vit_24_token_labels"} == RELEASES.keys() - VARIANTS.keys()


def test_without_the_file_one_sentence_says_where_from_and_where_to(served: Path, tmp_path: Path) -> None:
    assert served.exists()
    with pytest.raises(UserError) as error:
        read_weights("t2t_vit_7")
    text = str(error.value)
    assert text.startswith(f"t2t_vit_7: {location.ADDRESS}{FILE} could not be downloaded (") and "404" in text
    assert text.endswith(f"download it in another way and save it as {tmp_path / 'cache' / FILE}")


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(location, "ADDRESS", "http://127.0.0.1:9/")
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(
        UserError, match=r"could not be downloaded \(.*refused.*\); download it in another way and save it as"
    ):
        read_weights("t2t_vit_7")


@pytest.mark.parametrize("content", [b"<html>no such thing</html>", b"PK\3\4" + b"\0" * 99])
def test_what_is_no_checkpoint_does_not_get_into_the_cache(served: Path, tmp_path: Path, content: bytes) -> None:
    (served / FILE).write_bytes(content)
    with pytest.raises(UserError, match="the download is not that file"):
        read_weights("t2t_vit_7")
    assert not list((tmp_path / "cache").iterdir())


def test_another_network_does_not_get_into_the_cache(served: Path, tmp_path: Path) -> None:
    publish(served, "t2t_vit_10")
    with pytest.raises(UserError, match="holds the weights of t2t_vit_10, not of arch 't2t_vit_7'"):
        read_weights("t2t_vit_7")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("size", "digest", "told"), [(1, "", "has .* bytes, but the file has 1"), (0, "ab" * 16, "digest")]
)
def test_a_known_file_is_checked(
    served: Path, monkeypatch: pytest.MonkeyPatch, size: int, digest: str, told: str
) -> None:
    content = publish(served).read_bytes()
    known = location.Known(size or len(content), digest or hashlib.sha384(content).hexdigest()[:32])
    monkeypatch.setitem(location.KNOWN, FILE, known)
    with pytest.raises(UserError, match=told):
        read_weights("t2t_vit_7")
    monkeypatch.setitem(location.KNOWN, FILE, location.Known(len(content), hashlib.sha384(content).hexdigest()[:32]))
    assert read_weights("t2t_vit_7").chosen == "ema"


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(location, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(location, "ADDRESS", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UserError, match=r"could not be downloaded \(.*timed out\)"):
            read_weights("t2t_vit_7")
    assert socket.getdefaulttimeout() is None
    assert not list((tmp_path / "cache").iterdir())


def test_a_download_that_breaks_off_leaves_nothing(served: Path, tmp_path: Path) -> None:
    content = publish(served).read_bytes()
    (served / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="the download is not that file"):
        read_weights("t2t_vit_7")
    assert not list((tmp_path / "cache").iterdir())


def test_the_file_has_its_name_only_after_the_checks(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(served)
    seen: list[bool] = []
    check = location._check_content

    def checked(path: Path, arch: str) -> None:
        seen.append((tmp_path / "cache" / FILE).exists())
        check(path, arch)

    monkeypatch.setattr(location, "_check_content", checked)
    read_weights("t2t_vit_7")
    assert seen == [False]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [FILE]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file: cannot be written \(.*\); set T2T_VIT_CACHE to another folder"):
        read_weights("t2t_vit_7")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_download_that_finds_no_room_says_so(served: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    publish(served)
    monkeypatch.setattr("torch.hub.download_url_to_file", full)
    with pytest.raises(OutputError, match=rf"could not be written \({os.strerror(number)}: .*nothing was written"):
        read_weights("t2t_vit_7")


def test_networks_without_a_release_and_files_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"no weights are released for t2t_vit_quickstart; there are weights for t2t_vit_7, "
    ):
        read_weights("t2t_vit_quickstart")
    monkeypatch.chdir(tmp_path)
    torch.save({"cls_token": torch.ones(1, 1, 2)}, "t2t_vit_7")
    assert read_weights("t2t_vit_7").path == Path("t2t_vit_7")


def test_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("T2T_VIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert location.cache_folder() == Path("/x/t2t_vit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert location.cache_folder() == Path("/h/.cache/t2t_vit")


def test_without_a_home_the_folder_has_to_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "T2T_VIT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="set T2T_VIT_CACHE to a folder"):
        location.cache_folder()
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path))
    assert location.cache_folder() == tmp_path
