/** How long the fixed ops take at a Llama-8B's sizes: launches in a chain, as a step has them, with weights that no cache holds. Rates stand beside what a plain kernel reads. */
import type { Activation, KvCache, Weight } from "../../src/backend/backend.ts";
import { fuse } from "../../src/backend/cuda/fuse.ts";
import { launchLinear, type LinearCall, type LinearLauncher, type LinearMachine, type LinearPlan, linearWorkspace, planLinear } from "../../src/backend/cuda/linear.ts";
import { CudaBuffer } from "../../src/backend/cuda/memory.ts";
import { type Element, moduleLabel } from "../../src/backend/cuda/modules.ts";
import { Params } from "../../src/backend/cuda/params.ts";
import { activation, bytesOf, type Type } from "./arena.ts";
import { loadModule, timeOf } from "./machine.ts";
import { type OpsBench, stepOf } from "./ops-bench.ts";

const source = `
typedef unsigned int u32;
struct Params { const uint4* from; u32* out; long long vectors; };
extern "C" __global__ void __launch_bounds__(512) readAll(const __grid_constant__ Params p) {
  u32 x = 0; long long step = (long long)gridDim.x * blockDim.x;
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  for (; i + 3 * step < p.vectors; i += 4 * step) {
    uint4 a = __ldcs(p.from + i), b = __ldcs(p.from + i + step), c = __ldcs(p.from + i + 2 * step), d = __ldcs(p.from + i + 3 * step);
    x ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < p.vectors; i += step) { uint4 a = p.from[i]; x ^= a.x ^ a.y ^ a.z ^ a.w; }
  if (x == 0x12345678u) *p.out = x;
}
extern "C" __global__ void __launch_bounds__(256) nothing(const __grid_constant__ Params p) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;"); asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
`;
const shapes = [["qkv", 6144, 4096], ["o", 4096, 4096], ["gateUp", 28672, 4096], ["down", 4096, 14336], ["head", 128256, 4096]] as const;
const poolBytes = 2200 * 2 ** 20, element: Element = "bf16", mostRows = 512;

export async function timeOps(bench: OpsBench): Promise<void> {
  const { machine, arena } = bench, { device, report } = machine;
  arena.top = 0;
  // Weights: far more than L2 holds. Small numbers, as zeros would be multiplied with less power.
  const pool = device.alloc(poolBytes), piece = arena.numbers(16 * 2 ** 20, element, 0.05).buffer;
  for (let at = 0; at < poolBytes; at += piece.bytes) device.copy(pool + at, piece.address, Math.min(piece.bytes, poolBytes - at));
  const { module } = await loadModule(machine, "bandwidth.cu", source), readAll = module.function("readAll"), nothing = module.function("nothing"), sink = arena.take(256);
  let peak = 0;
  for (const perSm of [1, 2, 3, 4]) {
    const ms = await timeOf(machine, 4, () => device.launch(readAll, { grid: [device.numSms * perSm, 1, 1], block: 512 }, new Params().ptr(pool).ptr(sink.address).i64(poolBytes / 16).bytes()));
    peak = Math.max(peak, poolBytes / ms / 1e6);
  }
  const empty = await timeOf(machine, 200, () => device.launch(nothing, { grid: [1, 1, 1], block: 256, dependent: true }, new Params().ptr(pool).ptr(sink.address).i64(0).bytes()));
  report.time(`read bandwidth ${peak.toFixed(0)} GB/s; an empty dependent kernel ${(1000 * empty).toFixed(2)} us`);
  await timeProducts(bench, pool, peak);
  await timeRows(bench, pool);
  device.free(pool);
}

async function timeProducts(bench: OpsBench, pool: number, peak: number): Promise<void> {
  const { machine, arena, blas } = bench, { device, report } = machine;
  arena.top = 0;
  const on: LinearMachine = { numSms: device.numSms, maxSharedBytes: device.maxSharedBytes, library: blas !== undefined, deterministic: false };
  const launcher: LinearLauncher = { device, blas, workspace: device.alloc(linearWorkspace.bytes), kernel: bench.find };
  const x = arena.input(mostRows, 14336, 14336, element), out = arena.take(4 * mostRows * 128256), header = arena.take(16);
  /** "linear8 12.3us 3000GB/s 90%" */
  const cell = async (rows: number, n: number, k: number, plan: LinearPlan): Promise<string> => {
    device.write(header.address, new Uint8Array(Int32Array.of(rows, 1, rows, 0).buffer));
    const bytes = 2 * n * k, copies = Math.max(1, Math.floor(poolBytes / bytes)), times = Math.max(4, Math.min(32, Math.ceil(1.2e9 / bytes)));
    const call = (i: number): LinearCall => ({
      rows, n, k, element, header: header.address, rowsWord: 0, out: out.address, outType: "f32", outStride: n, x: x.buffer.address, xStride: k, weight: pool + (i % copies) * bytes, bias: 0, residual: 0, residualStride: 0,
    });
    const us = 1000 * (await timeOf(machine, times, (i) => launchLinear(call(i), plan, launcher), 3)), rate = bytes / us / 1e3;
    return `${plan.kernel}${plan.splits > 1 ? `/${plan.splits}` : ""} ${us.toFixed(1)}us ${rate.toFixed(0)}GB/s ${((100 * rate) / peak).toFixed(0)}%${rows >= 32 ? ` ${((2 * rows * n * k) / us / 1e6).toFixed(0)}TF` : ""}`;
  };
  report.time("linear bf16 to f32, microseconds of a launch in a chain; the rule's choice marked *, without the library +, deterministic #");
  for (const [name, n, k] of shapes) for (const rows of [1, 2, 4, 8, 16, 32, 128, mostRows]) {
    const size = { rows, n, k }, chosen = planLinear(size, on)!, own = planLinear(size, { ...on, library: false })!, cells: string[] = [];
    for (const family of ["skinny", "tiled", "library"] as const) {
      const plan = planLinear(size, on, { family });
      if (plan) cells.push(`${family === chosen.family ? "*" : ""}${family === own.family ? "+" : ""}${await cell(rows, n, k, plan)}`);
    }
    if (rows === 1 || rows === mostRows) cells.push(`#${await cell(rows, n, k, planLinear(size, { ...on, deterministic: true })!)}`);
    report.time(`${name.padEnd(6)} ${String(rows).padStart(4)}: ${cells.join(" | ")}`);
  }
  device.free(launcher.workspace);
}

async function timeRows(bench: OpsBench, pool: number): Promise<void> {
  const { machine, arena, ops } = bench;
  machine.report.time("other ops, microseconds of a launch in a chain:");
  for (const rows of [1, 8, mostRows]) {
    arena.top = 0;
    bench.step = stepOf(rows);
    const order = arena.ints(Array.from({ length: mostRows }, (_, i) => i)), batch = bench.batch(rows, { tokens: order, positions: order, slots: order, logitRows: order });
    const matrix = (type: Type, columns: number): Activation => activation(arena.take(rows * columns * bytesOf[type]), type, columns);
    const hidden = matrix("f32", 4096), last = matrix("f32", 4096), normed = matrix(element, 4096), gateUp = matrix(element, 28672), gated = matrix(element, 14336), qkv = matrix(element, 6144), logits = matrix("f32", 128256);
    const weight = arena.take(4 * 4096), rotary = arena.take(4 * 128 * 1024), cache = (): KvCache => ({ data: arena.take(2 * 64 * 8 * 16 * 128), format: element, pageSize: 16, numHeads: 8, headDim: 128 });
    const key = cache(), value = cache(), table: Weight = { data: new CudaBuffer(pool, mostRows * 4096 * 2), dtype: element, rows: mostRows, columns: 4096 };
    const bodies: Record<string, () => void> = {
      embed: () => ops.embed({ out: hidden, table, batch, scale: 1 }), rmsNorm: () => ops.rmsNorm({ out: normed, x: hidden, weight, epsilon: 1e-5, batch }),
      rope: () => ops.ropeAndCache({ qkv, numQueryHeads: 32, key, value, rotary, rotaryDim: 128, epsilon: 1e-5, batch }), gated: () => ops.gatedActivation({ out: gated, gateUp, activation: "silu", batch }),
      gather: () => ops.gatherRows({ out: last, x: hidden, batch }), softCap: () => ops.softCap({ x: logits, cap: 30, batch })
    };
    const up: Weight = { data: new CudaBuffer(pool, 2 * 28672 * 4096), dtype: element, rows: 28672, columns: 4096 };
    const commands = bench.record(() => {
      ops.rmsNorm({ out: normed, x: hidden, weight, epsilon: 1e-5, batch });
      ops.linear({ out: gateUp, x: normed, weight: up, batch });
      ops.gatedActivation({ out: gated, gateUp, activation: "silu", batch });
    });
    const toRope = bench.record(() => {
      bench.joiningOps.all.rmsNorm({ out: normed, x: hidden, weight, epsilon: 1e-5, batch });
      bench.joiningOps.all.linear({ out: qkv, x: normed, weight: { data: new CudaBuffer(pool, 2 * 6144 * 4096), dtype: element, rows: 6144, columns: 4096 }, batch });
      bench.joiningOps.all.ropeAndCache({ qkv, numQueryHeads: 32, key, value, rotary, rotaryDim: 128, epsilon: 1e-5, batch });
    });
    const programs = { "norm gateUp gated": commands, "joined by the rule": fuse(commands, moduleLabel, bench.find), "norm qkv rope": toRope, "joined all": fuse(toRope, moduleLabel, bench.find) };
    for (const [name, program] of Object.entries(programs)) bodies[name] = () => program.forEach(({ run }) => run(bench.step));
    const cells: string[] = [];
    for (const [name, body] of Object.entries(bodies)) cells.push(`${name} ${(1000 * (await timeOf(machine, 50, body, 3))).toFixed(2)}`);
    machine.report.time(`${String(rows).padStart(4)} rows: ${cells.join(", ")}`);
  }
}
