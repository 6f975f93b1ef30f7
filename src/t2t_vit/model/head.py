"""From all tokens to what the head sees."""

from typing import Literal

from torch import Tensor

from t2t_vit.errors import UserError

GlobalPool = Literal["token", "avg", ""]


def pool(tokens: Tensor, global_pool: GlobalPool) -> Tensor:
    """Tokens (B, 1 + N, C), class token first, to (B, C): the class token, or the mean of the others; "" keeps all.

    Raises:
        UserError: another name.
    """
    if global_pool == "token":
        return tokens[:, 0]
    if global_pool == "avg":
        return tokens[:, 1:].mean(dim=1)
    if global_pool == "":
        return tokens
    raise UserError(f"global_pool '{global_pool}' is not known; choose token, avg or nothing")
