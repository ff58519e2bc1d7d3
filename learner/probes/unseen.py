"""What a run was trained on with its labels is left out of the test halves of its control sets."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from learner.errors import ControlError
from learner.probes.control_sets import ControlSet
from stream.image import Image

_log = logging.getLogger(__name__)


def unseen(control: ControlSet, seen: Image) -> ControlSet:
    """Return a control set whose test half has no image that was seen; seen: uint8 [N, S, S, 3] of the same size.

    How many were left out is logged. Raises ControlError if no image of a class is left.
    """
    known = {image.tobytes() for image in seen}
    is_new = np.array([image.tobytes() not in known for image in control.test_images], np.bool_)
    if is_new.all():
        return control
    lost = sorted(set(control.test_labels.tolist()) - set(control.test_labels[is_new].tolist()))
    if lost:
        raise ControlError(
            f"control set {control.name}: every test image of class {control.classes[lost[0]]!r} is among the labelled ones "
            "that are trained on: probe the set whose train half these are, by the same path"
        )
    _log.warning(
        "control set has test images that are trained on with their labels, which are left out set=%s images=%d of=%d",
        control.name,
        int((~is_new).sum()),
        len(is_new),
    )
    return replace(control, test_images=control.test_images[is_new], test_labels=control.test_labels[is_new])
