"""Self-attention in half the precision, without copies of its weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class FastAttention(nn.MultiheadAttention):
    """torch's, but under autocast it looks at images in the order in which they come.

    torch's own brings the sequence to the front, and then multiplies each image with a copy of the weights: two
    thirds of a ViT-B/32's time on a processor that is fast in bfloat16.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> Any:
        """Float [B, N, E] three times -> ([B, N, E], None); or whatever else torch's layer is asked for."""
        plain = query is key is value and query.dim() == 3 and self._is_plain(others, options)
        if self.training or not plain or not torch.is_autocast_enabled(query.device.type):
            return super().forward(query, key, value, *others, **options)
        heads = (*query.shape[:2], 3, self.num_heads, self.head_dim)
        parts = linear(query, self.in_proj_weight, self.in_proj_bias).view(heads).permute(2, 0, 3, 1, 4)
        return self.out_proj(scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)), None

    def _is_plain(self, others: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Whether nothing is masked or added, and the answer alone is wanted."""
        asked = others or [name for name, option in options.items() if option is not None and option is not False]
        alone = not asked and options.get("need_weights") is False  # torch's default is True
        added = self.bias_k is not None or self.add_zero_attn
        return alone and not added and self.batch_first and self._qkv_same_embed_dim
