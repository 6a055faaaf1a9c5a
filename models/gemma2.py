"""Gemma 2 as `transformers` computes it, written for training speed on a few CPU cores.

Differences from the library are only in shape: queries, keys and values come from one
matrix, gate and up from another, and logits are computed where a loss is asked for.
`export_tensors` takes them apart again. Nothing here knows about data or optimizers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
ATTN_SOFTCAP = 50.0
FINAL_SOFTCAP = 30.0
ROPE_THETA = 10000.0
CONTEXT = 1024


@dataclass(frozen=True)
class Shape:
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    window: int
    head_dim: int = 64

    def sliding(self, layer: int) -> bool:
        """Even layers look back `window` positions, odd ones all the way."""
        return layer % 2 == 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * (1 + w), with a backward that makes half the passes of the composed one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        inverse = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + EPS).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * (1.0 + weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse, weight = ctx.saved_tensors
        toward = grad * unit
        grad_weight = toward.flatten(0, -2).sum(0)
        mean = (toward @ (1.0 + weight)).unsqueeze(-1) / unit.shape[-1]
        grad_x = (grad * (1.0 + weight)).addcmul_(unit, mean, value=-1).mul_(inverse)
        return grad_x, grad_weight


class CappedSoftmax(torch.autograd.Function):
    """softmax(50 * tanh(x / 50) + bias) of x / 50, overwriting its input: attention is bound by memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        capped = x.tanh_()
        weights = torch.softmax(torch.add(bias, capped, alpha=ATTN_SOFTCAP), -1)
        ctx.save_for_backward(capped, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        capped, weights = ctx.saved_tensors
        grad = torch._softmax_backward_data(grad, weights, -1, torch.float32)
        return grad.addcmul_(grad * capped, capped, value=-1).mul_(ATTN_SOFTCAP), None


class Norm(nn.Module):
    def __init__(self, size: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), start - 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return RmsNorm.apply(x.float(), self.weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions; x is [rows, heads, time, head_dim], halves are pairs."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Layer(nn.Module):
    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        self.shape = shape
        self.index = index
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.qkv = nn.Linear(shape.hidden, q + 2 * kv, bias=False)
        self.out = nn.Linear(q, shape.hidden, bias=False)
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.hidden, bias=False)
        self.norm_attn_in = Norm(shape.hidden)
        # The branches start quiet, so that the embedding is not drowned by 2 * layers of noise.
        self.norm_attn_out = Norm(shape.hidden, 0.3)
        self.norm_ffn_in = Norm(shape.hidden)
        self.norm_ffn_out = Norm(shape.hidden, 0.3)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        x = x + self.norm_attn_out(self.attend(self.norm_attn_in(x), cos, sin, bias))
        gate, up = self.gate_up(self.norm_ffn_in(x)).chunk(2, -1)
        return x + self.norm_ffn_out(self.down(F.gelu(gate, approximate="tanh") * up))

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        s = self.shape
        rows, time, _ = x.shape
        group = s.heads // s.kv_heads
        q, k, v = self.qkv(x).split([s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim], -1)
        # The queries that share a key head are stacked in time, so that keys are never repeated.
        q = rotate(q.view(rows, time, s.heads, s.head_dim).transpose(1, 2), cos, sin)
        q = (q * (s.head_dim**-0.5 / ATTN_SOFTCAP)).view(rows, s.kv_heads, group * time, s.head_dim)
        k = rotate(k.view(rows, time, s.kv_heads, s.head_dim).transpose(1, 2), cos, sin)
        v = v.view(rows, time, s.kv_heads, s.head_dim).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2)).float()
        weights = CappedSoftmax.apply(scores.view(rows, s.heads, time, time), bias)
        mixed = weights.view(rows, s.kv_heads, group * time, time).to(v.dtype) @ v
        return self.out(mixed.view(rows, s.heads, time, s.head_dim).transpose(1, 2).reshape(rows, time, -1))


class Gemma2(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList([Layer(shape, i) for i in range(shape.layers)])
        self.norm = Norm(shape.hidden)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 if parameter is self.embed.weight else parameter.shape[1] ** -0.5)
        half = shape.head_dim // 2
        frequency = ROPE_THETA ** -(torch.arange(half) / half)
        angle = torch.arange(CONTEXT)[:, None] * frequency[None]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor, position: Tensor, chat: Tensor, wanted: Tensor) -> Tensor:
        """Logits at the flat positions `wanted`. `chat` numbers the chats packed in a row: none sees another."""
        time = ids.shape[1]
        order = torch.arange(time, device=ids.device)
        back = order[:, None] - order[None, :]
        seen = ((back >= 0) & (chat[:, :, None] == chat[:, None, :]))[:, None]
        full = torch.zeros(seen.shape, device=ids.device).masked_fill_(~seen, float("-inf"))
        sliding = full.masked_fill(back >= self.shape.window, float("-inf"))
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        x = self.embed(ids) * self.shape.hidden**0.5
        for layer in self.layers:
            x = layer(x, cos, sin, sliding if self.shape.sliding(layer.index) else full)
        x = self.norm(x).flatten(0, 1)[wanted]
        return torch.tanh(F.linear(x, self.embed.weight).float() / FINAL_SOFTCAP) * FINAL_SOFTCAP


def export_tensors(model: Gemma2) -> dict[str, Tensor]:
    """The weights by their Hugging Face names."""
    s = model.shape
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    out = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    for layer in model.layers:
        at = f"model.layers.{layer.index}."
        parts = layer.qkv.weight.split([q, kv, kv])
        for name, part in zip(["q_proj", "k_proj", "v_proj"], parts, strict=True):
            out[f"{at}self_attn.{name}.weight"] = part
        out[f"{at}self_attn.o_proj.weight"] = layer.out.weight
        out[f"{at}mlp.gate_proj.weight"], out[f"{at}mlp.up_proj.weight"] = layer.gate_up.weight.chunk(2)
        out[f"{at}mlp.down_proj.weight"] = layer.down.weight
        out[f"{at}input_layernorm.weight"] = layer.norm_attn_in.weight
        out[f"{at}post_attention_layernorm.weight"] = layer.norm_attn_out.weight
        out[f"{at}pre_feedforward_layernorm.weight"] = layer.norm_ffn_in.weight
        out[f"{at}post_feedforward_layernorm.weight"] = layer.norm_ffn_out.weight
    return {name: tensor.detach().contiguous() for name, tensor in out.items()}


def export_config(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "query_pre_attn_scalar": shape.head_dim,
        "max_position_embeddings": CONTEXT,
        "sliding_window": shape.window,
        "layer_types": ["sliding_attention" if shape.sliding(i) else "full_attention" for i in range(shape.layers)],
        "attn_logit_softcapping": ATTN_SOFTCAP,
        "final_logit_softcapping": FINAL_SOFTCAP,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": EPS,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "initializer_range": 0.02,
        "bos_token_id": ids["<bos>"],
        "eos_token_id": [ids["<eos>"], ids["<end_of_turn>"]],
        "pad_token_id": ids["<pad>"],
        "torch_dtype": "bfloat16",
    }
