"""Giving memory back costs nothing that is in use."""

from x0tta6bl4.adapters.allocator import give_back


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def test_what_was_freed_goes_back_and_what_is_in_use_stays() -> None:
    kept = [bytes([number % 256]) * 3000 for number in range(2000)]
    freed = [b"x" * 3000 for _ in range(20000)]
    del freed
    before = resident()

    give_back()

    assert resident() <= before
    assert all(part[0] == number % 256 for number, part in enumerate(kept))
