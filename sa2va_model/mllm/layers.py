# SPDX-License-Identifier: Apache-2.0
"""One forward of a language model's layers over what was read before, whatever transformers calls its arguments.

Letters: L new tokens, P tokens read before, C channels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache


def run_layers(
    body: nn.Module,
    embeddings: Tensor,
    positions: Tensor,
    cache: DynamicCache | None,
    mask: Tensor | None,
    extra: Mapping[str, Any] | None = None,
) -> Tensor:
    """States of the new tokens [L, C]; `cache` grows by their keys and values.

    Args:
        body: transformers' model without its head.
        embeddings: [1, L, C].
        positions: long [1, L], or [3, 1, L] where a family has positions in space.
        cache: None = the attention keeps what it needs.
        mask: additive [1, 1, L, P + L]; None = causal.
        extra: arguments of one family only.
    """
    out: Tensor = body(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions,
        use_cache=cache is not None,
        **{_cache_argument(type(body).forward): cache},
        **(extra or {}),
    ).last_hidden_state[0]
    return out


@lru_cache
def _cache_argument(forward: Callable[..., Any]) -> str:
    """`past_key_values` until transformers 5.23, `cache` since; the old name goes in 5.40."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
