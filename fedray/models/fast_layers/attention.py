"""Self-attention under autocast, without copies of its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class FastAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention`; in inference under autocast it keeps the batch dimension first.

    torch's own layer moves the sequence dimension to the front and then multiplies each image with a copy of the
    weights. That takes two thirds of a ViT-B/32's time on a processor that is fast in bfloat16.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        """Float [B, N, E] three times -> ([B, N, E], None). Other calls go to torch's layer."""
        is_self_attention = query is key is value and query.dim() == 3
        fast = is_self_attention and not self.training and torch.is_autocast_enabled(query.device.type)
        if not fast or arguments or not self._supports(options):
            return super().forward(query, key, value, *arguments, **options)
        shape = (*query.shape[:2], 3, self.num_heads, self.head_dim)
        projections = linear(query, self.in_proj_weight, self.in_proj_bias).view(shape).permute(2, 0, 3, 1, 4)
        return self.out_proj(scaled_dot_product_attention(*projections).transpose(1, 2).flatten(2)), None

    def _supports(self, options: Mapping[str, Any]) -> bool:
        """Whether the call has no mask and wants no attention weights, and the layer adds no keys or values."""
        is_set = any(option is not None and option is not False for option in options.values())
        adds_rows = self.bias_k is not None or self.add_zero_attn
        no_weights = options.get("need_weights") is False  # torch's default is True
        return no_weights and not is_set and not adds_rows and self.batch_first and self._qkv_same_embed_dim
