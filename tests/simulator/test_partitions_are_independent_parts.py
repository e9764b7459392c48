"""A mask is a partition if its connected parts can be dealt evenly to P places; nothing less is called one."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import bmat, csr_matrix
from scipy.sparse.csgraph import connected_components

from simulator import partition
from simulator.errors import InputError
from simulator.structure import compose, conforms, parse, project


def dealt(k, n, parts, rng):
    return rng.permutation(np.arange(k) % parts)[:, None] == rng.permutation(np.arange(n) % parts)[None]


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.0, 0.6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_components_are_those_of_the_bipartite_graph(k, n, density, seed):
    mask = np.random.default_rng(seed).random((k, n)) < density
    graph = bmat([[None, csr_matrix(mask)], [csr_matrix(mask.T), None]]) if mask.any() else csr_matrix((k + n, k + n))
    count, label = connected_components(graph, directed=False)
    known = [(np.flatnonzero(label[:k] == one), np.flatnonzero(label[k:] == one)) for one in range(count)]
    known = sorted((part for part in known if len(part[0]) and len(part[1])), key=lambda part: part[0][0])
    found = partition.components(mask if seed % 2 else np.asfortranarray(mask))
    assert len(found) == len(known)
    for (rows, columns), (known_rows, known_columns) in zip(found, known, strict=True):
        np.testing.assert_array_equal(rows, known_rows)
        np.testing.assert_array_equal(columns, known_columns)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.floats(0.0, 0.5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_mask_conforms_if_any_dealing_of_all_features_contains_it(k, n, parts, density, seed):
    mask = np.random.default_rng(seed).random((k, n)) < density
    fair = [[way for way in product(range(parts), repeat=size)
             if all(abs(way.count(part) - size / parts) <= 1 for part in range(parts))] for size in (k, n)]
    known = any(not (mask & (np.array(rows)[:, None] != np.array(columns)[None])).any()
                for rows in fair[0] for columns in fair[1]) if parts ** (k + n) <= 5000 else None
    if known is not None:
        assert conforms(mask, parse(f"partition {parts}")) is known


@pytest.mark.parametrize(("k", "n", "parts"), [(8, 8, 4), (10, 7, 3), (5, 9, 2), (9, 8, 4)])
def test_one_weight_between_two_parts_ends_it(k, n, parts):
    mask = dealt(k, n, parts, np.random.default_rng(k))
    structure = parse(f"partition {parts}")
    assert conforms(mask, structure)
    first = np.flatnonzero(mask[0])
    mask[0, np.setdiff1d(np.arange(n), first)[0]] = True
    assert not conforms(mask, structure)


def test_a_channel_of_a_convolution_is_in_one_part_whole():
    mask = np.repeat(dealt(4, 6, 2, np.random.default_rng(0)), 9, axis=0)
    assert conforms(mask, parse("partition 2"), window=9)
    # without the last channel, the first half of the rows is no longer a share of channels
    assert not conforms(mask[:18], parse("partition 4"), window=9)


def test_its_density_is_one_of_p():
    structure = parse("Partition 4")
    assert (str(structure), structure.fixed_density, structure.ranks_over_layer) == ("partition 4", 0.25, False)
    assert dealt(8, 12, 4, np.random.default_rng(0)).mean() == 0.25


@pytest.mark.parametrize("text", ["partition 0", "partition", "kernel + partition 2", "partition -1"])
def test_a_partition_that_makes_no_sense_is_refused(text):
    with pytest.raises(InputError):
        parse(text)


def test_one_layer_is_no_chain_and_the_message_names_the_recipe():
    with pytest.raises(InputError, match=r"chain of layers.*recipe.*partition"):
        project(np.ones((4, 4)), parse("partition 2"))
    with pytest.raises(InputError, match="chain of layers"):
        project(np.ones((4, 4)), compose(parse("partition 2"), parse("2:4")))
