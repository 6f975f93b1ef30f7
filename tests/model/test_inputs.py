"""Other image sizes: the table rebuilt or resized."""

import pytest
import torch

from t2t_vit import UserError, create_model
from t2t_vit.model.inputs import resized_table, sinusoid_table


def test_rebuilt_is_what_a_new_model_has() -> None:
    model = create_model("t2t_vit_7", image_size=64, num_classes=2)
    model.set_input_size((56, 112))
    other = create_model("t2t_vit_7", image_size=(56, 112), num_classes=2)
    assert (model.image_size, model.grid) == ((56, 112), other.grid)
    assert torch.equal(model.pos_embed, other.pos_embed)
    assert model(torch.randn(1, 3, 56, 112)).shape == (1, 2)


def test_resized_keeps_the_class_token_and_flat_tables() -> None:
    table = torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 12, 4), 2.0)], dim=1)
    resized = resized_table(table, (3, 4), (5, 2))
    assert resized.shape == (1, 11, 4)
    assert torch.equal(resized[:, 0], table[:, 0])
    torch.testing.assert_close(resized[:, 1:], torch.full((1, 10, 4), 2.0))


def test_resized_runs_along_the_right_sides() -> None:
    rows = torch.arange(3.0).view(3, 1).expand(3, 4)
    table = torch.cat([torch.zeros(1), rows.flatten()]).view(1, 13, 1)
    resized = resized_table(table, (3, 4), (6, 4))[0, 1:, 0].view(6, 4)
    assert (resized[1:] > resized[:-1]).all()
    torch.testing.assert_close(resized, resized[:, :1].expand(6, 4))


def test_the_same_grid_changes_nothing() -> None:
    model = create_model("t2t_vit_7", image_size=64)
    before = model.pos_embed.clone().mul_(2)
    model.pos_embed.copy_(before)
    model.set_input_size(66, position="resize")
    assert torch.equal(model.pos_embed, before)
    model.set_input_size(64)
    assert torch.equal(model.pos_embed, sinusoid_table(17, 256))


def test_policies_differ_and_others_are_refused() -> None:
    rebuilt, resized = (create_model("t2t_vit_7", image_size=64).double() for _ in range(2))
    rebuilt.set_input_size(96)
    resized.set_input_size(96, "resize")
    assert rebuilt.pos_embed.shape == resized.pos_embed.shape == (1, 37, 256)
    assert rebuilt.pos_embed.dtype == resized.pos_embed.dtype == torch.float64
    assert (rebuilt.pos_embed - resized.pos_embed).abs().max() > 0.1
    with pytest.raises(UserError, match="choose one of rebuild, resize"):
        resized.set_input_size(64, "learned")
    with pytest.raises(UserError, match="too small"):
        resized.set_input_size(2)
    assert resized.image_size == (96, 96)
    with pytest.raises(ValueError, match="37 rows does not match a grid of 4 x 4"):
        resized_table(resized.pos_embed, (4, 4), (6, 6))


@pytest.mark.parametrize("policy", ["rebuild", "resize"])
def test_other_sizes_are_taken_where_that_is_asked(policy: str) -> None:
    model = create_model("t2t_vit_7", image_size=64, num_classes=2, other_sizes=policy).eval()
    images, before = torch.randn(2, 3, 56, 112), model.pos_embed
    found, (_, maps) = model(images), model.forward_intermediates(images, 1)
    assert model.pos_embed is before
    assert maps[0].shape == (2, 256, 4, 7)
    model.set_input_size((56, 112), policy)
    assert torch.equal(model(images), found)
    with pytest.raises(ValueError, match=r"got \(1, 56, 112\)"):
        model(images[:, :1])
