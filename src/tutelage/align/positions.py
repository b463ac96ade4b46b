"""Turn supervised *targets* into the logit indices that predict them.

In: a row's boolean target mask. Out: sorted logit indices. This is the only place in the package
that knows that logit ``i`` predicts token ``i + 1``.
"""

import numpy as np

from tutelage.errors import AlignmentError


def logit_indices(target_mask: np.ndarray) -> np.ndarray:
    """Give the logit index of every supervised target: target index - 1.

    Args:
        target_mask: bool [T]; True where the *token* is a target.

    Returns:
        int64 [P], sorted and unique, ``0 <= index < T - 1``; empty when nothing is supervised.

    Raises:
        AlignmentError: If the mask is not one-dimensional and boolean, or marks token 0, which
            no logit predicts.
    """
    mask = np.asarray(target_mask)
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise AlignmentError(
            f"target mask has shape {mask.shape} and dtype {mask.dtype}; expected a one-dimensional bool array, "
            "True where the token is a supervised target"
        )
    if mask.size and mask[0]:
        raise AlignmentError(
            "token 0 is marked as a target, but no logit predicts the first token; expected target_mask[0] False: "
            "mark target tokens themselves (not the positions before them) and keep at least one prompt token"
        )
    return np.flatnonzero(mask).astype(np.int64) - 1
