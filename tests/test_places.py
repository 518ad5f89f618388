"""Places: what lies at the same bytes is found, whoever came first and however long it is."""

import random

import torch

from handwave.places import Taken, place

CPU, META = torch.device("cpu"), torch.device("meta")


def test_a_view_lies_where_its_tensor_does():
    whole = torch.zeros(6, 4)
    device, start, end = place(whole)
    assert (device, start, end - start) == (CPU, whole.data_ptr(), 6 * 4 * 4)
    assert place(whole[2:4]) == (CPU, start + 32, start + 64)
    assert place(whole[:, 1]) == (CPU, start + 4, start + 4 + (5 * 4 + 1) * 4)
    assert place(whole[:0]) == (CPU, 0, 0)


def test_what_overlaps_is_found_as_by_comparing_each_with_each():
    seeded = random.Random(0)
    for _ in range(300):
        known: list[tuple[int, int]] = []
        taken = Taken()
        for name in range(seeded.randint(0, 12)):
            start = seeded.randint(0, 60)
            known.append((start, start + seeded.choice((0, 1, 3, 40))))
            taken.add([(CPU, *known[-1])], str(name))
        for start in range(0, 100, 3):
            end = start + seeded.choice((0, 1, 7))
            meet = [str(n) for n, (a, b) in enumerate(known) if a < end and start < b]
            found = taken.by([(CPU, start, end)])
            assert (found in meet) if meet else found is None
            assert taken.by([(META, start, end)]) is None


def test_the_first_place_that_meets_one_is_named():
    taken = Taken()
    taken.add([(CPU, 0, 8), (CPU, 16, 24)], "one")
    taken.add([(CPU, 8, 16)], "other")
    assert taken.by([(CPU, 24, 30), (CPU, 12, 13)]) == "other"
    assert taken.by([(CPU, 30, 31)]) is None
