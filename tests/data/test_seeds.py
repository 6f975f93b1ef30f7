import numpy as np

from t2t_vit.data.seeds import Purpose, generator, key, keys, normals, uniforms


def test_keys_are_per_sample_and_differ_in_every_argument() -> None:
    many = keys(3, 5, np.arange(100), Purpose.ERASE)
    assert [key(3, 5, i, Purpose.ERASE) for i in range(100)] == many.tolist()
    grid = [
        key(seed, epoch, index, purpose)
        for seed in range(10)
        for epoch in range(10)
        for index in range(50)
        for purpose in Purpose
    ]
    assert len(set(grid)) == len(grid)
    assert key(-1, 0, 0, Purpose.MIX) != key(2**40, 0, 0, Purpose.MIX)


def test_numbers_are_part_of_a_runs_identity() -> None:
    """A run that is continued by another version of this package has to draw the same."""
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "SUBSET": 1, "ORDER": 2, "TRANSFORM": 3, "POLICY": 4, "REPLACE": 5, "ERASE": 6, "ERASE_NOISE": 7, "MIX": 8,
    }  # fmt: skip
    known = [key(*numbers, purpose) for *numbers, purpose in ((0, 0, 0, Purpose.ORDER), (7, 3, 11, Purpose.MIX))]
    assert known == [0x80ABE802AC1E182E, 0x8957F7FA8FBF2891]
    assert generator(7, 3, 0, Purpose.ORDER).permutation(8).tolist() == [3, 2, 7, 6, 0, 4, 5, 1]


def test_uniforms_are_uniform_and_rows_do_not_depend_on_each_other() -> None:
    rows = keys(0, 0, np.arange(20000), Purpose.TRANSFORM)
    numbers = uniforms(rows, 8)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.002)
    correlation = np.corrcoef(np.concatenate([numbers[:-1], numbers[1:]], axis=1).T) - np.eye(16)
    assert np.abs(correlation).max() < 0.03
    np.testing.assert_array_equal(uniforms(rows[7:8], 3), numbers[7:8, :3])


def test_normals_are_standard() -> None:
    numbers = normals(keys(1, 2, np.arange(20000), Purpose.ERASE_NOISE), 3)
    np.testing.assert_allclose(numbers.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(numbers.std(0), 1, atol=0.03)


def test_generators_repeat() -> None:
    first, again, other = (generator(0, epoch, 0, Purpose.ORDER).permutation(50) for epoch in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
