"""No two advisory locks of a database have one number."""

from headrace.store import locks


def test_each_lock_has_a_number_of_its_own() -> None:
    numbers = {name: number for name, number in vars(locks).items() if name.endswith("_LOCK")}
    assert numbers
    assert len(set(numbers.values())) == len(numbers)
