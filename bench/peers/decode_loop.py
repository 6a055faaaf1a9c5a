#!/usr/bin/env python3
"""A plain PyTorch decode loop in the manner of gpt-fast, shaped as Llama 3.1 8B in bf16 with random weights: what torch.compile reaches. No user needs it.

  python3 bench/peers/decode_loop.py [--batches 1,64] [--attention flex,cudnn] [--context 2048] [--steps 128] [--json FILE] [--mode reduce-overhead] [--layers 32] [--seconds N]

Needs one CUDA GPU with 24 GB (batch 1) or 48 GB (batch 64) and PyTorch 2.9 or newer. A row a batch and attention: printed, and appended to FILE as one JSON object a line:
  case, peer, ms (median step by CUDA events), low_ms, high_ms, wall_ms (mean step by the clock, everything included), tokens_per_s (from wall_ms), weights_gbps and
  total_gbps (weights; weights and the keys and values of the context, over ms), first_call_s (both compiling calls), cudagraph_skips, rel_logits, steps, error

model        32 layers, 4096 wide, 32 heads of 128 over 8 KV heads, 14336 in the feed-forward, 128256 tokens; weights normal with deviation 0.02; greedy
cache        static, [B, 8, context + steps rounded up to 128, 128] a layer, filled at random up to the context: no prefill is run, nor timed
attention    flex   flex_attention over a block mask cut at the position (FlexDecoding)
             cudnn  scaled_dot_product_attention on cuDNN alone with a boolean mask over the whole cache
             auto   the same on the backend that PyTorch picks
compiled     one step in the mode given, fullgraph; for batch 1 with Inductor's coordinate descent, as gpt-fast sets it (--tune all|first|none)
rel_logits   |logits − eager| / |eager| of the first step, eager being the same model uncompiled with SDPA's math backend
"""
import argparse
import json
import math
import time

import torch
import torch._dynamo
import torch._inductor.config
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

DIM, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, VOCABULARY = 4096, 32, 8, 128, 14336, 128256
THETA, EPSILON, BLOCK = 500_000.0, 1e-5, 128
ATTENTION = ("flex", "cudnn", "auto")


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(DIM))

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + EPSILON)).type_as(x) * self.weight


def rotate(x, angles):
    """x [B, 1, heads, D], pairs side by side; angles [1, 1, D/2, 2] (cosine, sine) of the step's position."""
    pair = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = angles[..., 0], angles[..., 1]
    return torch.stack([pair[..., 0] * cos - pair[..., 1] * sin, pair[..., 1] * cos + pair[..., 0] * sin], -1).flatten(3).type_as(x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.ffn_norm = Norm(), Norm()
        self.wqkv = nn.Linear(DIM, (HEADS + 2 * KV_HEADS) * HEAD_DIM, bias=False)
        self.wo = nn.Linear(HEADS * HEAD_DIM, DIM, bias=False)
        self.w1, self.w3, self.w2 = nn.Linear(DIM, HIDDEN, bias=False), nn.Linear(DIM, HIDDEN, bias=False), nn.Linear(HIDDEN, DIM, bias=False)

    def caches(self, batch, length, context):
        for name in ("k_cache", "v_cache"):
            cache = torch.zeros(batch, KV_HEADS, length, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
            cache[:, :, :context].normal_()
            self.register_buffer(name, cache, persistent=False)

    def forward(self, x, position, angles, mask, kind):
        batch = x.shape[0]
        q, k, v = self.wqkv(self.attention_norm(x)).split([HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM], -1)
        q = rotate(q.view(batch, 1, HEADS, HEAD_DIM), angles).transpose(1, 2)
        k = rotate(k.view(batch, 1, KV_HEADS, HEAD_DIM), angles).transpose(1, 2)
        v = v.view(batch, 1, KV_HEADS, HEAD_DIM).transpose(1, 2)
        self.k_cache[:, :, position] = k
        self.v_cache[:, :, position] = v
        if kind == "flex":
            y = flex_attention(q, self.k_cache, self.v_cache, block_mask=mask, enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, self.k_cache, self.v_cache, attn_mask=mask, enable_gqa=True)
        x = x + self.wo(y.transpose(1, 2).reshape(batch, 1, HEADS * HEAD_DIM))
        h = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Model(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = Norm()
        self.output = nn.Linear(DIM, VOCABULARY, bias=False)

    def open(self, batch, length, context):
        """New caches, and the tables of positions."""
        for layer in self.layers:
            layer.caches(batch, length, context)
        phase = torch.outer(torch.arange(length, device="cuda").float(), THETA ** -(torch.arange(0, HEAD_DIM, 2, device="cuda").float() / HEAD_DIM))
        self.register_buffer("angles", torch.stack([phase.cos(), phase.sin()], -1), persistent=False)
        self.register_buffer("allowed", torch.tril(torch.ones(length, length, dtype=torch.bool, device="cuda")), persistent=False)
        self.length = length

    def forward(self, tokens, position, mask, kind):
        """tokens [B, 1], position [1] -> logits [B, vocabulary]"""
        angles = self.angles[position][:, None]                # [1, 1, D/2, 2]: over batch, step and heads
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, position, angles, mask, kind)
        return self.output(self.norm(x))[:, -1]

    def step(self, tokens, position, block_mask, kind):
        """-> (next tokens [B, 1], logits)"""
        if kind == "flex":
            mask = block_mask[:, :, position // BLOCK]
            offset = position[0]
            mask.mask_mod = lambda b, h, q, kv: kv <= q + offset
            mask.seq_lengths = (1, self.length)
        else:
            mask = self.allowed[None, None, position]
        logits = self.forward(tokens, position, mask, kind)
        return logits.argmax(-1, keepdim=True), logits


def build(layers):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Model(layers)
    torch.set_default_dtype(before)
    model = model.to_empty(device="cuda").requires_grad_(False)
    torch.manual_seed(20)
    for parameter in model.parameters():
        parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
    return model.eval()


def measure(model, batch, kind, context, steps, mode, tune):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch._inductor.config.coordinate_descent_tuning = tune
    warm = 8
    length = -(-(context + warm + steps) // BLOCK) * BLOCK
    torch.manual_seed(21)
    model.open(batch, length, context)
    tokens = torch.randint(VOCABULARY, (batch, 1), device="cuda")
    position = torch.tensor([context], device="cuda")
    with sdpa_kernel(SDPBackend.MATH):
        _, eager = model.step(tokens, position, None, "auto")  # writes the same keys and values that the compiled step writes again
    block_mask = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, length, length, device="cuda", BLOCK_SIZE=BLOCK) if kind == "flex" else None
    step = torch.compile(model.step, mode=mode, fullgraph=True, dynamic=False)
    backends = [SDPBackend.CUDNN_ATTENTION] if kind == "cudnn" else [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

    def advance():
        nonlocal tokens
        torch.compiler.cudagraph_mark_step_begin()
        chosen, logits = step(tokens, position, block_mask, kind)
        tokens = chosen.clone()
        position.add_(1)
        return logits
    with sdpa_kernel(backends):
        start = time.perf_counter()
        logits = advance().clone()
        torch.cuda.synchronize()
        advance()                                              # the second call records the graph
        torch.cuda.synchronize()
        first = time.perf_counter() - start
        rel = ((logits.double() - eager.double()).norm() / eager.double().norm()).item()
        for _ in range(warm - 2):
            advance()
        torch.cuda.synchronize()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        start = time.perf_counter()
        marks[0].record()
        for mark in marks[1:]:
            advance()
            mark.record()
        torch.cuda.synchronize()
        wall = (time.perf_counter() - start) / steps * 1e3
    times = sorted(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))
    ms = times[len(times) // 2]
    weights = sum(p.numel() * 2 for p in model.parameters()) - model.embedding.weight.numel() * 2
    keys_and_values = len(model.layers) * 2 * batch * KV_HEADS * (context + warm + steps // 2) * HEAD_DIM * 2
    return {"ms": ms, "low_ms": times[0], "high_ms": times[-1], "wall_ms": wall, "tokens_per_s": batch / wall * 1e3, "weights_gbps": weights / ms / 1e6,
            "total_gbps": (weights + keys_and_values) / ms / 1e6, "first_call_s": first, "cudagraph_skips": torch._dynamo.utils.counters["inductor"]["cudagraph_skips"], "rel_logits": rel,
            "steps": steps, "error": None}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--batches", default="1,64")
    flags.add_argument("--attention", default="flex,cudnn", help=f"of {', '.join(ATTENTION)}, comma between them")
    flags.add_argument("--context", type=int, default=2048)
    flags.add_argument("--steps", type=int, default=128)
    flags.add_argument("--layers", type=int, default=32)
    flags.add_argument("--mode", default="reduce-overhead", choices=["reduce-overhead", "max-autotune"])
    flags.add_argument("--tune", default="first", choices=["all", "first", "none"], help="coordinate descent: for every batch, for batch 1, for none")
    flags.add_argument("--json", help="append rows to this file")
    flags.add_argument("--seconds", type=float, default=math.inf, help="start nothing after so many seconds")
    given = flags.parse_args()
    batches, kinds = [int(b) for b in given.batches.split(",")], given.attention.split(",")
    if any(kind not in ATTENTION for kind in kinds) or min(*batches, given.steps, given.layers, given.context) < 1:
        flags.error(f"--attention takes {', '.join(ATTENTION)}; batches, steps, layers and context are at least 1")
    start, failed = time.perf_counter(), 0
    out = open(given.json, "a", encoding="utf-8") if given.json else None
    gpu = torch.cuda.get_device_properties(0)
    torch.set_float32_matmul_precision("high")

    def put(row):
        if out:
            out.write(json.dumps(row) + "\n")
            out.flush()
    put({"case": "machine", "peer": f"torch {torch.__version__}", "gpu": gpu.name, "cuda": torch.version.cuda, "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())})
    print(f"{gpu.name}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    with torch.no_grad():
        model = build(given.layers)
        torch.cuda.synchronize()
        print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f}·10⁹ weights after {time.perf_counter() - start:.1f} s", flush=True)
        for batch, kind in [(batch, kind) for batch in batches for kind in kinds]:
            row = {"case": f"decode-loop/b{batch}-ctx{given.context}-l{given.layers}", "peer": f"torch-{kind}"}
            if time.perf_counter() - start > given.seconds:
                row["error"] = f"not started: {given.seconds:.0f} seconds were over"
            else:
                try:
                    row |= measure(model, batch, kind, given.context, given.steps, given.mode, given.tune == "all" or given.tune == "first" and batch == 1)
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
                    failed += 1
                torch.cuda.empty_cache()
            put(row)
            print(f"{row['case']:28} {row['peer']:12} " + (row["error"] or f"{row['ms']:8.3f} ms a step (wall {row['wall_ms']:.3f})  {row['tokens_per_s']:9.1f} tokens/s  weights {row['weights_gbps']:6.0f} GB/s  "
                  f"with KV {row['total_gbps']:6.0f} GB/s  compiled in {row['first_call_s']:.0f} s  rel {row['rel_logits']:.1e}  graph skips {row['cudagraph_skips']}"), flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
