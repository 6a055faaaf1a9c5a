#!/usr/bin/env python3
"""What PyTorch does with the same attention problems: FlexAttention, SDPA on cuDNN and FlashAttention-2. A reference for benchmarks, no user needs it.

  python3 bench/peers/attention.py [--cases PREFIX,...] [--peers NAME,...] [--json FILE] [--runs 25] [--seconds N] [--list]

Needs one CUDA GPU, PyTorch 2.9 or newer and its Triton. A row a case and peer: printed, and appended to FILE as one JSON object a line:
  case, peer, ms (median), low_ms, high_ms, runs, tflops (prefill) or gbps (decode), first_call_s, mask_s, rel_oracle, rel_peer, graph, error

peers        cudnn, fa2   scaled_dot_product_attention on that backend alone (causal and full, which is all they can say)
             flex         torch.compile(flex_attention)
             flex-max     the same in mode max-autotune-no-cudagraphs
             flex-tma     flex-max with USE_TMA (prefill; asked for by name)
             flex-splits  flex with four times its own number of KV splits (decode; asked for by name)
passes       every case by the quick peers first, then by those that tune, so that a limit on --seconds cuts the slow ones; what was cut says so in `error`
tflops       4·D a pair of query and key that the mask allows, whatever a kernel visits
gbps         bytes of K and V over the time; the call is replayed from a CUDA graph (graph: true; false if it could not be captured, and its launch is in the time),
             256 MB are written between runs, so that nothing is left in L2
rel_oracle   |out − oracle| / |out| in Frobenius norms over some rows of every head, the oracle in float64 with the same mods on dense indices
rel_peer     the same between this peer's whole output and that of the case's first peer
inputs       normal bf16 [B, H, S, D], seed 20 a case; documents cut at DOCUMENT_CUTS; window 1024: the query's own key and 1023 before it;
             scattered: four groups whose tokens lie between each other as a hash puts them, so that no block of keys is all allowed or all left out
"""
import argparse
import functools
import json
import math
import time

import torch
import torch._dynamo
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import and_masks, create_block_mask, flex_attention

DOCUMENT_CUTS = (700, 1500, 2900, 3300, 4700, 5200, 7000)     # where documents 2 to 8 of a sequence of 8192 begin
WINDOW = 1024
CAP = 50.0
QUICK, TUNED, BY_NAME = ("cudnn", "fa2", "flex"), ("flex-max",), ("flex-tma", "flex-splits")


# --- Mods. They run inside FlexAttention on scalars, and in the oracle on dense index tensors.
def causal(b, h, q, kv):
    return q >= kv


def window(b, h, q, kv):
    return q - kv < WINDOW


def same_document(length):
    starts = torch.zeros(length, dtype=torch.int32, device="cuda")
    starts[[cut for cut in DOCUMENT_CUTS if cut < length]] = 1
    ids = torch.cumsum(starts, 0).to(torch.int32)
    return lambda b, h, q, kv: ids[q] == ids[kv]


def same_group(length):
    ids = (((torch.arange(length, dtype=torch.int64, device="cuda") * 0x9E3779B1) & 0xFFFFFFFF) >> 30).to(torch.int32)
    return lambda b, h, q, kv: ids[q] == ids[kv]


def alibi(heads):
    return lambda score, b, h, q, kv: score + torch.exp2(-8.0 * (h + 1) / heads) * (kv - q)


def soft_cap(score, b, h, q, kv):
    return CAP * torch.tanh(score / CAP)


@functools.cache
def approximate_soft_cap():
    """tanh by the GPU's own instruction, as FlexAttention's users who care for speed write it: an operator that Inductor lowers to PTX."""
    from torch._inductor.lowering import make_pointwise, register_lowering
    from torch._inductor.virtualized import ops

    @torch.library.custom_op("tessera_peers::tanh", mutates_args=())
    def tanh(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    tanh.register_fake(lambda x: torch.empty_like(x))
    torch.library.register_vmap("tessera_peers::tanh", lambda info, dims, x: (torch.ops.tessera_peers.tanh(x), dims[0]))
    register_lowering(torch.ops.tessera_peers.tanh)(make_pointwise(lambda x: ops.inline_asm_elementwise(x, asm="tanh.approx.f32 $0, $1;", dtype=torch.float32)))
    return lambda score, b, h, q, kv: CAP * torch.ops.tessera_peers.tanh(score / CAP)


# --- Cases: shape, makers of mask and score mod, pairs that the mask allows a head, and what SDPA can say of it ("causal", "full", None).
def triangle(n):
    return n * (n + 1) // 2


def document_pairs(length):
    edges = [0, *[cut for cut in DOCUMENT_CUTS if cut < length], length]
    return sum(triangle(b - a) for a, b in zip(edges, edges[1:]))


def group_pairs(length):
    seen, pairs = [0] * 4, 0
    for i in range(length):
        group = ((i * 0x9E3779B1) & 0xFFFFFFFF) >> 30
        seen[group] += 1
        pairs += seen[group]
    return pairs


def window_pairs(length):
    return triangle(length) - triangle(max(0, length - WINDOW))


MODS = {
    "causal": (lambda s: causal, None, triangle, "causal"),
    "full": (None, None, lambda s: s * s, "full"),
    "alibi": (lambda s: causal, alibi, triangle, None),
    "window1024": (lambda s: and_masks(causal, window), None, window_pairs, None),
    "doc8": (lambda s: and_masks(causal, same_document(s)), None, document_pairs, None),
    "scattered": (lambda s: and_masks(causal, same_group(s)), None, group_pairs, None),
    "softcap50": (lambda s: causal, lambda heads: soft_cap, triangle, None),
    "softcap50-approx": (lambda s: causal, lambda heads: approximate_soft_cap(), triangle, None),
}


def prefill(batch, heads, kv_heads, length, dim, mod):
    group = f"h{heads}" if heads == kv_heads else f"h{heads}kv{kv_heads}"
    return f"prefill/b{batch}-{group}-s{length}-d{dim}/{mod}", (batch, heads, kv_heads, length, length, dim, mod)


def decode(batch, length):
    return f"decode/b{batch}-h32kv8-s{length}-d128", (batch, 32, 8, 1, length, 128, "full")


CASES = dict([
    *[prefill(2, 32, 32, 8192, 128, mod) for mod in ("causal", "full", "alibi", "window1024", "doc8", "scattered", "softcap50", "softcap50-approx")],
    prefill(1, 32, 8, 8192, 128, "causal"),
    *[prefill(2, 32, 32, 8192, 64, mod) for mod in ("causal", "full")],
    *[prefill(2, 16, 16, 8192, 256, mod) for mod in ("causal", "full")],
    decode(64, 4096), decode(16, 8192), decode(1, 32768),
])


def inputs(shape):
    batch, heads, kv_heads, queries, length, dim, _ = shape
    random = torch.Generator(device="cuda").manual_seed(20)

    def normal(*size):
        return torch.randn(*size, generator=random, dtype=torch.bfloat16, device="cuda")
    return normal(batch, heads, queries, dim), normal(batch, kv_heads, length, dim), normal(batch, kv_heads, length, dim)


def rows_of(queries):
    wanted = [0, 1, 127, 128, queries // 2, queries - 2, queries - 1, *torch.randint(queries, (24,), generator=torch.Generator().manual_seed(7)).tolist()]
    return sorted({row for row in wanted if 0 <= row < queries})


def oracle(q, k, v, shape, mask, score_mod):
    """Some rows of every head, in float64: [B, H, rows, D]."""
    batch, heads, kv_heads, queries, length, dim, _ = shape
    rows, kv = torch.tensor(rows_of(queries), device="cuda")[:, None], torch.arange(length, device="cuda")[None, :]
    out = torch.empty(batch, heads, rows.shape[0], dim, dtype=torch.float64, device="cuda")
    for b in range(batch):
        for h in range(heads):
            sequence, head, of = torch.tensor(b, device="cuda"), torch.tensor(h, device="cuda"), h * kv_heads // heads
            x = q[b, h, rows[:, 0]].double() @ k[b, of].double().T / math.sqrt(dim)
            if score_mod:
                x = score_mod(x, sequence, head, rows, kv)
            if mask:
                x = x.masked_fill(~mask(sequence, head, rows, kv), -math.inf)
            out[b, h] = torch.softmax(x, -1) @ v[b, of].double()
    return out


def relative(a, b):
    """|a − b| / |b| in Frobenius norms, a head at a time in float64."""
    above = below = 0.0
    for x, y in zip(a.flatten(0, 1), b.flatten(0, 1)):
        above, below = above + (x.double() - y.double()).square().sum().item(), below + y.double().square().sum().item()
    return math.sqrt(above / below)


# --- Peers: each gives a function without arguments that returns [B, H, Q, D].
def sdpa(backend, q, k, v, says, shape):
    def call():
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=says == "causal", enable_gqa=shape[1] != shape[2])
    return call


def flex(peer, q, k, v, mask, score_mod, shape):
    """-> (call, seconds that the block mask took)"""
    batch, heads, kv_heads, queries, length, _, _ = shape
    start, block_mask = time.perf_counter(), None
    if mask:
        block_mask = torch.compile(create_block_mask, dynamic=False)(mask, None, None, queries, length, device="cuda")
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    options = {}
    if peer == "flex-tma":
        options = {"USE_TMA": True}
    if peer == "flex-splits":                                  # FlexAttention itself takes two splits an SM over all (batch, KV head), and at least one
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        options = {"SPLIT_KV": 4 * max(1, sms // (batch * kv_heads) * 2)}
    compiled = torch.compile(flex_attention, dynamic=False, mode="max-autotune-no-cudagraphs" if peer in ("flex-max", "flex-tma") else None)

    def call():
        return compiled(q, k, v, score_mod=score_mod, block_mask=block_mask, enable_gqa=heads != kv_heads, kernel_options=options or None)
    return call, seconds


# --- Timing.
def milliseconds(call, runs, flush):
    """Each run's time by CUDA events, sorted, after at least five calls and 200 ms of warming."""
    start, calls = time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - start < 0.2:
        call()
        torch.cuda.synchronize()
        calls += 1
    pairs = []
    for _ in range(runs):
        if flush is not None:
            flush.zero_()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call()
        b.record()
        pairs.append((a, b))
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) for a, b in pairs)


def captured(call):
    """A function that replays the call from a CUDA graph, or None where it cannot be captured."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay
    except Exception as error:
        print(f"  not captured: {type(error).__name__}: {str(error)[:200]}", flush=True)
        torch.cuda.synchronize()
        return None


def measure(case, peer, runs, flush, firsts):
    """One row. `firsts` keeps each case's first output, and its oracle."""
    shape = CASES[case]
    batch, heads, kv_heads, queries, length, dim, mod = shape
    make_mask, make_score, pairs, says = MODS[mod]
    torch._dynamo.reset()
    q, k, v = inputs(shape)
    mask, score_mod = make_mask(length) if make_mask else None, make_score(heads) if make_score else None
    row = {"case": case, "peer": peer}
    if peer in ("cudnn", "fa2"):
        call = sdpa(SDPBackend.CUDNN_ATTENTION if peer == "cudnn" else SDPBackend.FLASH_ATTENTION, q, k, v, says, shape)
    else:
        call, row["mask_s"] = flex(peer, q, k, v, mask, score_mod, shape)
    start = time.perf_counter()
    out = call()
    torch.cuda.synchronize()
    row["first_call_s"] = time.perf_counter() - start
    if case not in firsts:
        firsts[case] = (peer, out.clone(), oracle(q, k, v, shape, mask, score_mod))
    row["rel_oracle"] = relative(out[:, :, rows_of(queries)], firsts[case][2])
    row["rel_peer"] = relative(out, firsts[case][1]) if firsts[case][0] != peer else None
    del out
    if case.startswith("decode"):
        replay = captured(call)
        row["graph"] = replay is not None
        times = milliseconds(replay or call, runs, flush)
        ms = times[len(times) // 2]
        row["gbps"] = 2 * batch * kv_heads * length * dim * 2 / ms / 1e6
    else:
        times = milliseconds(call, runs, None)
        ms = times[len(times) // 2]
        row["tflops"] = 4 * dim * batch * heads * pairs(length) / ms / 1e9
    return row | {"ms": ms, "low_ms": times[0], "high_ms": times[-1], "runs": runs, "error": None}


def can(case, peer):
    sdpa_says = MODS[CASES[case][6]][3] is not None
    return {"cudnn": sdpa_says, "fa2": sdpa_says, "flex-tma": case.startswith("prefill"), "flex-splits": case.startswith("decode")}.get(peer, True)


def line(row):
    if row["error"]:
        return f"{row['case']:44} {row['peer']:12} {row['error'][:160]}"
    rate = f"{row['tflops']:7.1f} TFLOP/s" if "tflops" in row else f"{row['gbps']:7.1f} GB/s   "
    peer = "" if row["rel_peer"] is None else f", to first peer {row['rel_peer']:.1e}"
    return f"{row['case']:44} {row['peer']:12} {row['ms']:9.4f} ms {rate}  first call {row['first_call_s']:6.2f} s  rel {row['rel_oracle']:.1e}{peer}"


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cases", default="", help="only cases whose name starts with one of these, comma between them")
    flags.add_argument("--peers", default=",".join(QUICK + TUNED), help="comma between them")
    flags.add_argument("--json", help="append rows to this file")
    flags.add_argument("--runs", type=int, default=25)
    flags.add_argument("--seconds", type=float, default=math.inf, help="start nothing after so many seconds")
    flags.add_argument("--list", action="store_true", help="print the cases' names, measure nothing")
    given = flags.parse_args()
    peers, prefixes = given.peers.split(","), given.cases.split(",")
    unknown = [peer for peer in peers if peer not in QUICK + TUNED + BY_NAME]
    cases = [case for case in CASES if any(case.startswith(prefix) for prefix in prefixes)]
    if unknown or not cases or given.runs < 1:
        flags.error(f"unknown peers {unknown}: there are {', '.join(QUICK + TUNED + BY_NAME)}" if unknown else f"--cases {given.cases}: no case starts so, see --list" if not cases else "--runs must be at least 1")
    if given.list:
        print("\n".join(cases))
        return
    start, firsts, failed = time.perf_counter(), {}, 0
    out = open(given.json, "a", encoding="utf-8") if given.json else None

    def put(row):
        if out:
            out.write(json.dumps(row) + "\n")
            out.flush()
    gpu = torch.cuda.get_device_properties(0)
    put({"case": "machine", "peer": f"torch {torch.__version__}", "gpu": gpu.name, "sms": gpu.multi_processor_count, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
         "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())})
    print(f"{gpu.name}, torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}", flush=True)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        for order in (QUICK, TUNED + BY_NAME):
            for case, peer in [(case, peer) for case in cases for peer in order if peer in peers and can(case, peer)]:
                if time.perf_counter() - start > given.seconds:
                    row = {"case": case, "peer": peer, "error": f"not started: {given.seconds:.0f} seconds were over"}
                else:
                    try:
                        row = measure(case, peer, given.runs, flush, firsts)
                    except Exception as error:
                        row = {"case": case, "peer": peer, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
                        failed += 1
                    torch.cuda.empty_cache()
                put(row)
                print(line(row), flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
