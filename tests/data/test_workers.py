from contextlib import suppress

import pytest

from t2t_vit.data import workers


class _Parent:
    def __init__(self, alive: bool) -> None:
        self.alive = alive

    def join(self, timeout: float) -> None:
        assert timeout > 0

    def is_alive(self) -> bool:
        return self.alive


@pytest.mark.parametrize(
    ("alive", "error"), [(False, BrokenPipeError()), (True, BrokenPipeError()), (False, ValueError())]
)
def test_only_what_a_killed_main_process_broke_off_is_not_told(
    alive: bool, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "parent_process", lambda: _Parent(alive))
    ended: list[int] = []

    def leave(code: int) -> None:
        ended.append(code)
        raise SystemExit

    monkeypatch.setattr("os._exit", leave)
    quiet = not alive and isinstance(error, OSError)
    with suppress(SystemExit):
        workers._end_quietly(type(error), error, None)
    assert ended == ([0] if quiet else [])
    assert (type(error).__name__ in capsys.readouterr().err) is not quiet
