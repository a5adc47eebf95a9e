"""Shards and reading order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sida import recipe
from sida.data.digits import load_digits_images
from sida.data.prepare import prepare_data
from sida.data.reader import ShuffledOrder
from sida.data.shards import Shards
from sida.errors import Corrupt
from sida.settings import settings
from sida.stores import open_store


def test_prepared_digits_are_the_published_images_record_by_record(place: Path) -> None:
    published = prepare_data(recipe=recipe.load("digits"))
    images, labels = load_digits_images()
    result = published.manifest.result
    assert (result.count, sum(result.histogram), len(result.histogram)) == (1797, 1797, 10)
    shards = Shards(open_store(settings().store), result)
    stored, stored_labels = shards.read(torch.arange(1797))
    assert np.array_equal(stored.numpy(), images)
    assert np.array_equal(stored_labels.numpy(), labels)
    x, c = shards.batch(torch.tensor([5, 3]))
    assert x.min() >= -1
    assert x.max() <= 1
    assert c.argmax(1).tolist() == labels[[5, 3]].tolist()


def test_a_shard_that_was_cut_or_flipped_is_named(place: Path) -> None:
    result = prepare_data(recipe=recipe.load("digits")).manifest.result
    store = open_store(settings().store)
    path = store.local_path(result.shards[0].object.key)
    assert path is not None
    content = path.read_bytes()
    path.chmod(0o644)
    for damaged in (content[:-1], content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(damaged)
        with pytest.raises(Corrupt, match=r"shard-00000\.bin"):
            Shards(store, result)


def test_each_epoch_reads_every_image_once_in_another_order() -> None:
    order = ShuffledOrder(50, seed=1)
    first, second = order(torch.arange(50)), order(torch.arange(50, 100))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != ShuffledOrder(50, seed=2)(torch.arange(50)).tolist()


def test_any_piece_of_the_order_can_be_read_alone() -> None:
    whole = ShuffledOrder(50, seed=1)(torch.arange(500))
    piece = ShuffledOrder(50, seed=1)(torch.tensor([499, 120, 7]))
    assert piece.tolist() == whole[[499, 120, 7]].tolist()
