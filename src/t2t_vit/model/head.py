"""From all tokens to what the head sees."""

from typing import Literal, get_args

from torch import Tensor

from t2t_vit.errors import UserError

GlobalPool = Literal["token", "avg", ""]


def check_pool(global_pool: str) -> None:
    """Raises UserError where there is no pool of that name."""
    if global_pool not in get_args(GlobalPool):
        raise UserError(f"global_pool '{global_pool}' is not known; choose token, avg or nothing")


def pool(tokens: Tensor, global_pool: GlobalPool) -> Tensor:
    """Tokens (B, 1 + N, C), class token first, to (B, C): the class token, or the mean of the others; "" keeps all.

    Raises:
        UserError: another name.
    """
    check_pool(global_pool)
    if global_pool == "token":
        return tokens[:, 0]
    return tokens[:, 1:].mean(dim=1) if global_pool == "avg" else tokens
