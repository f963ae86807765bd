"""The text tower: CLIP's causal transformer, pooled at the first end-of-text token.

Shapes: N texts, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig

from clipvip.model.layers import Encoder
from clipvip.model.products import attention


class TextEmbeddings(nn.Module):
    """Token plus position embedding."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[N, S] -> [N, S, D]."""
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class TextTransformer(nn.Module):
    """The tower. Attention is causal, so whatever follows the first end token cannot change the pooled output."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[N, S] -> [N, D]: the final state at each text's first end token."""
        end = (input_ids == self.eos_token_id).int().argmax(dim=1, keepdim=True)  # [N, 1], the first maximum
        seen = torch.arange(input_ids.shape[1], device=end.device) <= end  # [N, S]
        attend = partial(attention, attn_mask=seen[:, None, None])
        *layers, last = self.encoder.layers
        x = self._through(layers, input_ids)
        at_end = x.take_along_dim(end[:, :, None], dim=1)  # [N, 1, D]
        return self.final_layer_norm(last(x, attend, query=at_end)[:, 0])

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Final layer-normed states of all tokens, [N, S, D]."""
        return self.final_layer_norm(self._through(self.encoder.layers, input_ids))

    def _through(self, layers: Iterable[nn.Module], input_ids: Tensor) -> Tensor:
        attend = partial(attention, is_causal=True)
        x = self.embeddings(input_ids)
        for layer in layers:
            x = layer(x, attend)
        return x
