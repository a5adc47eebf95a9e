"""scikit-learn's handwritten digits: 1,797 real 8x8 gray images of 10 classes (UCI ML, test set of Alpaydin and Kaynak).

License: CC BY 4.0, doi 10.24432/C50P49.
"""

from __future__ import annotations

import numpy as np


def load_digits_images() -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [1797, 1, 8, 8] in [0, 255] and labels int64 [1797], in the order in which scikit-learn ships them.

    The stored values are ink counts from 0 to 16; they are stretched to [0, 255] and rounded.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return images, digits.target.astype(np.int64)
