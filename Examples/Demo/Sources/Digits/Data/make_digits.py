# SPDX-License-Identifier: Apache-2.0

"""Writes digits.bin, the UCI handwritten digits as bytes, beside this script.

    pip install scikit-learn==1.9.1
    python make_digits.py

Layout, without a header: 1797 images of 8x8 pixels, row by row, one byte per pixel (0 paper ... 16 ink), then 1797 bytes with the
digit (0 ... 9) that each image shows.
"""

import hashlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

EXPECTED_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"

digits = load_digits()
images = digits.data.astype(np.uint8)
labels = digits.target.astype(np.uint8)
assert images.shape == (1797, 64) and (images == digits.data).all() and images.max() == 16

content = images.tobytes() + labels.tobytes()
digest = hashlib.sha256(content).hexdigest()
assert digest == EXPECTED_SHA256, f"scikit-learn's copy has changed: {digest}"
Path(__file__).with_name("digits.bin").write_bytes(content)
