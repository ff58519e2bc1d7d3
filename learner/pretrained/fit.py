"""Puts named tensors into the shape that a backbone wants, by timm's own converters, and refuses what does not fit. Pure."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.errors import SettingsError
from learner.pretrained.names import Named
from learner.pretrained.recognise import looks

_NAMED = 4
"""Names of tensors in a message."""
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""What weights may be; those of 8 and 4 bits mean nothing without scales that lie elsewhere."""


class Fitted(NamedTuple):
    """A whole state of a backbone; the file's tensors that it has no use for; those that were resized, with both shapes."""

    state: dict[str, Tensor]
    surplus: list[str]
    resized: list[str]


def fitted(backbone: Any, given: Named) -> Fitted:
    """Return the state of a timm model that these tensors make. Raises SettingsError in one line if they do not fit."""
    own: dict[str, Tensor] = backbone.state_dict()
    tensors = _converted(backbone, given.tensors)
    wrong = [
        f"{name} {shape(tensors[name])}, not {shape(own[name])}"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    missing = [name for name in own if name not in tensors]
    what = [f"lacks {few(missing)}"] * bool(missing) + [f"has other shapes: {few(sorted(wrong))}"] * bool(wrong)
    if what:
        raise SettingsError(f"it {' and '.join(what)}; {looks(given.tensors)}")
    state = {name: tensors[name] for name in own}
    coarse = [name for name in own if own[name].is_floating_point() and state[name].dtype not in _FLOATS]
    if coarse:
        kind = str(state[coarse[0]].dtype).removeprefix("torch.")
        raise SettingsError(f"{few(coarse)}: quantised ({kind}), give the float weights")
    spoiled = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if spoiled:
        raise SettingsError(f"values in {few(spoiled)} are not finite: it is damaged, or its training failed")
    resized = [
        f"{name} {shape(before)} to {shape(state[name])}"
        for name, before in given.tensors.items()
        if name in state and _is_resized(name, before, state[name])
    ]
    return Fitted(state, given.left_out + [name for name in tensors if name not in own], resized)


def _is_resized(name: str, before: Tensor, after: Tensor) -> bool:
    if name == "patch_embed.proj.weight":
        return before.shape[2:] != after.shape[2:]
    return name == "pos_embed" and abs(before.shape[1] - after.shape[1]) > 1  # one more or less is that of [CLS]


def few(names: Iterable[str]) -> str:
    """Return the first names, and how many there are beside them."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(name[:80] for name in listed[:_NAMED]) + more


def shape(tensor: Tensor) -> str:
    """Return the shape of a tensor as a person writes it."""
    return f"[{', '.join(map(str, tensor.shape))}]"


def _converted(backbone: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names, with tables of positions and patches resized, by the converter of timm's model."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    given = {name: tensor.float() if tensor.dtype in _FLOATS else tensor for name, tensor in tensors.items()}
    if convert is None:
        return given
    if "register_tokens" in given:  # by the mask token timm knows DINOv2, whose registers have no positions
        given.setdefault("mask_token", torch.zeros(1))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it tries
            return dict(convert(given, backbone))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise SettingsError(
            f"timm cannot convert it ({' '.join(str(error).split())[:120]}); {looks(tensors)}"
        ) from error
