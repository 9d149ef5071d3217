# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Images, captions and class names: where they lie, what they are, and batches of them."""

from qkit.data.dataset import Dataset as Dataset
from qkit.data.dataset import Sample as Sample
from qkit.data.dataset import draw as draw
from qkit.data.dataset import in_turns as in_turns
from qkit.data.dataset import join_datasets as join_datasets
from qkit.data.dataset import open_dataset as open_dataset
from qkit.data.digest import dataset_digest as dataset_digest
from qkit.data.loading import ImageBatch as ImageBatch
from qkit.data.loading import image_batches as image_batches
from qkit.data.source import Source as Source
from qkit.data.source import join_sources as join_sources
from qkit.data.source import parse_source as parse_source
from qkit.data.source import split_sources as split_sources
