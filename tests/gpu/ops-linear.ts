/** Matrix products against sums in float64: the op, every family and number of splits by hand, what is joined with them, fixed order, and chains in graphs. */
import type { Activation, KvCache, Weight } from "../../src/backend/backend.ts";
import { fuse } from "../../src/backend/cuda/fuse.ts";
import { launchLinear, libraryTakes, type LinearCall, type LinearFamily, type LinearLauncher, type LinearMachine, linearWorkspace, planLinear } from "../../src/backend/cuda/linear.ts";
import { type Element, moduleLabel } from "../../src/backend/cuda/modules.ts";
import { addressOf } from "../../src/backend/cuda/memory.ts";
import { toFloat32 } from "../../src/core/dtype.ts";
import { activation, type Matrix, type Numbers, type Type } from "./arena.ts";
import { bucketOf, type OpsBench, stepOf, type Wanted } from "./ops-bench.ts";

const rowCounts = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 127, 128, 129, 300] as const;
const activations = ["silu", "geluTanh", "gelu", "relu"] as const;
/** By hand, whatever the rule would choose. */
const variants: readonly { readonly family: LinearFamily; readonly splits?: number; readonly depth?: number }[] = [
  { family: "skinny", splits: 1 }, ...[5, 4, 3].map((depth) => ({ family: "skinny", splits: 1, depth }) as const), { family: "skinny", splits: 2 }, { family: "skinny", splits: 5 },
  { family: "tiled", splits: 1 }, { family: "tiled", splits: 3 }, { family: "tiled" },
];
const differing = (a: Uint8Array, b: Uint8Array): number => a.reduce((sum, byte, i) => sum + (byte === b[i] ? 0 : 1), 0);
/** x[r] . w[n], in float64. */
function dot(x: Matrix, r: number, w: Float32Array, n: number, k: number): Wanted {
  let sum = 0, magnitude = 0;
  for (let i = 0, a = r * x.a.stride, b = n * k; i < k; i++) {
    const product = x.values[a + i]! * w[b + i]!;
    sum += product;
    magnitude += Math.abs(product);
  }
  return [sum, magnitude];
}

export async function checkLinear(bench: OpsBench, element: Element, quick: boolean): Promise<void> {
  const { machine: { device, report }, blas } = bench;
  const machine: LinearMachine = { numSms: device.numSms, maxSharedBytes: device.maxSharedBytes, library: blas !== undefined, deterministic: false };
  const workspace = device.alloc(linearWorkspace.bytes), launcher: LinearLauncher = { device, blas, workspace, kernel: bench.find };
  const sizes = [[17, 8], [129, 72], [1001, 896], [256, 4096], [640, 2048], [48, 14336]] as const;
  await report.section(`linear ${element}`, () => products(bench, element, machine, launcher, quick ? sizes.slice(0, 3) : sizes));
  await report.section(`a product with its norm and gate gives the bits of the three kernels ${element}`, () => joined(bench, element, machine, launcher));
  await report.section(`deterministic: rows have the same bits in any number ${element}`, () => fixedOrder(bench, element));
  await report.section(`a chain of ops in a graph gives the bits of the same ops one by one, ${element}`, () => chain(bench, element));
  device.free(workspace);
}

async function products(bench: OpsBench, element: Element, machine: LinearMachine, launcher: LinearLauncher, sizes: readonly (readonly [number, number])[]): Promise<void> {
  const { arena, ops, blas, machine: { report } } = bench, counts = new Map<string, number>(), count = (what: string): void => void counts.set(what, (counts.get(what) ?? 0) + 1);
  let round = 0;
  for (const [n, k] of sizes) {
    arena.top = 0;
    const w = arena.numbers(n * k, element), bias = arena.numbers(n, "f32"), keep = arena.top;
    for (const rows of rowCounts) {
      arena.top = keep;
      round++;
      const bucket = bucketOf(rows), type: Type = round % 3 === 0 ? element : "f32", outStride = n + (round % 4), x = arena.input(rows, k, k + 8 * (round % 3), element);
      const withBias = round % 2 === 0, residual = round % 5 < 2 ? arena.input(bucket, n, outStride, "f32") : undefined;
      const memo = new Map<number, Wanted>();
      const want = (r: number, c: number): Wanted => {
        let sum = memo.get(r * n + c);
        if (!sum) memo.set(r * n + c, (sum = dot(x, r, w.values, c, k)));
        const added = (withBias ? bias.values[c]! : 0) + (residual ? residual.values[r * outStride + c]! : 0);
        return [sum[0] + added, sum[1] + Math.abs(added)];
      };
      const batch = bench.batch(rows), mid = arena.top, sample = Math.min(2000, 4e6 / k), weight: Weight = { data: w.buffer, dtype: element, rows: n, columns: k };
      const what = `${rows} x ${n} x ${k} ${type}${withBias ? " bias" : ""}${residual ? " residual" : ""}`, out = arena.output(bucket, n, outStride, type);
      bench.step = stepOf(bucket);
      ops.linear({ out: out.a, x: x.a, weight, ...(withBias && { bias: bias.buffer }), ...(residual && { residual: residual.a }), batch });
      const asked = { n, k, element, header: 0, rowsWord: 0, out: 0, outType: type, outStride, x: 0, xStride: 0, weight: 0, bias: withBias ? 1 : 0, residual: residual ? 1 : 0, residualStride: outStride };
      const { family } = planLinear({ rows, n, k }, { ...machine, library: blas !== undefined && libraryTakes(asked) })!;
      count(`op: ${family}`);
      report.check(!(withBias && family === "library"), `linear ${what}: a bias is not added by the library`, true);
      await bench.compare(`linear ${what} by ${family}`, out, rows, () => want, { sample, tail: family !== "library" });

      for (const only of variants) {
        const plan = planLinear({ rows: bucket, n, k }, machine, only);
        if (!plan) continue;
        count(`${plan.kernel}${plan.depth ? ` depth ${plan.depth}` : ""}${plan.splits > 1 ? " split" : ""}`);
        arena.top = mid;
        const to = arena.output(bucket, n, outStride, type);
        const call: LinearCall = {
          rows: bucket, n, k, element, header: addressOf(batch.header), rowsWord: 0, out: to.buffer.address, outType: type, outStride, x: x.buffer.address, xStride: x.a.stride, weight: w.buffer.address,
          bias: withBias ? bias.buffer.address : 0, residual: residual?.buffer.address ?? 0, residualStride: outStride,
        };
        for (let times = 0; times < 2; times++) launchLinear(call, plan, launcher); // the second finds what the first has left in the workspace
        await bench.compare(`${plan.kernel} splits ${plan.splits}${plan.depth ? ` depth ${plan.depth}` : ""} ${what}`, to, rows, () => want, { sample: sample / 4 });
      }
    }
  }
  report.note(`     ${JSON.stringify(Object.fromEntries(counts))}`);
}

async function joined(bench: OpsBench, element: Element, machine: LinearMachine, launcher: LinearLauncher): Promise<void> {
  const { arena, ops, machine: { device, report } } = bench;
  for (const [half, k] of [[24, 72], [104, 896], [128, 4096], [64, 9216]] as const) {
    arena.top = 0;
    const n = 2 * half, w = arena.numbers(n * k, element, 0.2), bias = arena.numbers(n, "f32"), normWeight = arena.numbers(k, "f32"), keep = arena.top;
    for (const rows of [1, 2, 3, 5, 8]) for (const [norm, gate] of [[true, false], [false, true], [true, true]] as const) for (const splits of [1, 3]) {
      const plan = planLinear({ rows: bucketOf(rows), n, k }, machine, { family: "skinny", splits }), withBias = (rows + splits) % 4 === 0, nonlinear = activations[(rows + half) % 4]!;
      if (!plan) continue;
      arena.top = keep;
      const x = arena.input(rows, k, k + 8, norm ? "f32" : element), batch = bench.batch(rows), bucket = bucketOf(rows);
      bench.step = stepOf(bucket);
      const run = async (together: boolean): Promise<Uint8Array> => {
        const normedRows = arena.output(bucket, k, k + 16, element), product = arena.output(bucket, n, n + 8, element), out = arena.output(bucket, half, half + 8, element), from = norm && !together ? normedRows : x;
        const call: LinearCall = {
          rows: bucket, n, k, element, header: addressOf(batch.header), rowsWord: 0, out: product.buffer.address, outType: element, outStride: product.a.stride, x: from.buffer.address, xStride: from.a.stride,
          weight: w.buffer.address, bias: withBias ? bias.buffer.address : 0, residual: 0, residualStride: 0,
          ...(together && norm && { norm: { weight: normWeight.buffer.address, epsilon: 1e-5, out: normedRows.buffer.address, outStride: normedRows.a.stride } }),
          ...(together && gate && { gate: { activation: nonlinear, out: out.buffer.address, outStride: out.a.stride } }),
        };
        if (norm && !together) ops.rmsNorm({ out: normedRows.a, x: x.a, weight: normWeight.buffer, epsilon: 1e-5, batch });
        launchLinear(call, plan, launcher);
        if (gate && !together) ops.gatedActivation({ out: out.a, gateUp: product.a, activation: nonlinear, batch });
        return new Uint8Array(Buffer.concat(await Promise.all([normedRows, product, out].map(({ buffer }) => device.read(buffer.address, buffer.bytes)))));
      };
      const apart = await run(false), one = await run(true), expected = rows * ((norm ? k : 0) + n + (gate ? half : 0));
      report.result(() => {
        const different = differing(apart, one), written = toFloat32(apart, element).reduce((sum, v) => sum + (Number.isNaN(v) ? 0 : 1), 0);
        return [different === 0 && written === expected, `joined ${rows} x ${n} x ${k} norm ${norm} gate ${gate} splits ${splits} bias ${withBias}: ${different} bytes of ${apart.length} differ, ${written} elements written of ${expected}`];
      }, true);
    }
  }
}

async function fixedOrder(bench: OpsBench, element: Element): Promise<void> {
  const { arena, machine: { device, report } } = bench;
  for (const [n, k] of [[1001, 896], [256, 4096], [4096, 4096]] as const) {
    arena.top = 0;
    const most = n === 4096 ? 700 : 300, w = arena.numbers(n * k, element), x = arena.input(most, k, k, element), bias = arena.numbers(n, "f32"), type: Type = n === 256 ? element : "f32", keep = arena.top;
    let first: Uint8Array | undefined;
    for (const rows of [most, 1, 5, 8, 9, 64, 65, 129]) {
      arena.top = keep;
      const out = arena.output(rows, n, n, type);
      bench.step = stepOf(rows);
      bench.deterministicOps.linear({ out: out.a, x: x.a, weight: { data: w.buffer, dtype: element, rows: n, columns: k }, bias: bias.buffer, batch: bench.batch(rows) });
      const got = (await device.read(out.buffer.address, out.buffer.bytes)).slice(), all = (first ??= got);
      report.result(() => {
        const different = differing(got, all), nans = toFloat32(got, type).reduce((sum, v) => sum + (Number.isNaN(v) ? 1 : 0), 0);
        return [different === 0 && nans === 0, `deterministic ${rows} x ${n} x ${k}: ${different} bytes differ, ${nans} not written`];
      }, true);
      if (rows !== most) continue;
      await bench.compare(`deterministic ${rows} x ${n} x ${k}`, out, rows, () => (r, c) => {
        const [sum, magnitude] = dot(x, r, w.values, c, k);
        return [sum + bias.values[c]!, magnitude];
      }, { sample: 500 });
    }
  }
}

async function chain(bench: OpsBench, element: Element): Promise<void> {
  const { arena, machine: { device, report, dry } } = bench, dim = 1024, ffn = 2816, numLayers = 3, heads = 8, kvHeads = 2, headDim = 64, width = (heads + 2 * kvHeads) * headDim, pageSize = 16;
  arena.top = 0;
  const layers = Array.from({ length: numLayers }, () => ({
    norm: arena.numbers(dim, "f32"), qkv: arena.numbers(width * dim, element, 0.05), gateUp: arena.numbers(2 * ffn * dim, element, 0.05), down: arena.numbers(ffn * dim, element, 0.05),
  } satisfies Readonly<Record<string, Numbers>>));
  const rotary = arena.numbers(256 * headDim, "f32"), keep = arena.top;
  for (const [joins, ops] of Object.entries({ "by the rule": bench.ops, ...bench.joiningOps })) for (const rows of [1, 2, 4, 5, 8, 16, 32, 64, 100]) {
    arena.top = keep;
    const bucket = bucketOf(rows), order = arena.ints(Array.from({ length: bucket }, (_, i) => i)), batch = bench.batch(rows, { positions: order, slots: order });
    const start = arena.numbers(bucket * dim, "f32"), hidden = arena.take(4 * bucket * dim), h: Activation = activation(hidden, "f32", dim);
    const normedRows = arena.output(bucket, dim, dim, element), gateUp = arena.output(bucket, 2 * ffn, 2 * ffn, element), gated = arena.output(bucket, ffn, ffn, element), qkv = arena.output(bucket, width, width, element);
    const cache = (): KvCache => ({ data: arena.take(2 * kvHeads * headDim * pageSize * Math.ceil(bucket / pageSize)), format: element, pageSize, numHeads: kvHeads, headDim }), key = cache(), value = cache();
    const matrix = ({ buffer }: Numbers, to: number, from: number): Weight => ({ data: buffer, dtype: element, rows: to, columns: from });
    const commands = bench.record(() => {
      for (const layer of layers) {
        ops.rmsNorm({ out: normedRows.a, x: h, weight: layer.norm.buffer, epsilon: 1e-5, batch });
        ops.linear({ out: qkv.a, x: normedRows.a, weight: matrix(layer.qkv, width, dim), batch });
        ops.ropeAndCache({ qkv: qkv.a, numQueryHeads: heads, key, value, rotary: rotary.buffer, rotaryDim: headDim, epsilon: 1e-5, batch });
        ops.rmsNorm({ out: normedRows.a, x: h, weight: layer.norm.buffer, epsilon: 1e-5, batch });
        ops.linear({ out: gateUp.a, x: normedRows.a, weight: matrix(layer.gateUp, 2 * ffn, dim), batch });
        ops.gatedActivation({ out: gated.a, gateUp: gateUp.a, activation: "silu", batch });
        ops.linear({ out: h, x: gated.a, weight: matrix(layer.down, dim, ffn), residual: h, batch });
      }
    });
    const written = [{ address: hidden.address, bytes: 4 * rows * dim }, { address: qkv.buffer.address, bytes: 2 * rows * width }, ...[key, value].map(({ data }) => ({ address: addressOf(data), bytes: data.bytes }))];
    const reset = (): void => {
      device.copy(hidden.address, start.buffer.address, 4 * bucket * dim);
      for (const { address, bytes } of written.slice(1)) device.fill(address, 0xff, bytes);
    };
    const read = async (): Promise<Uint8Array> => new Uint8Array(Buffer.concat(await Promise.all(written.map(({ address, bytes }) => device.read(address, bytes)))));
    reset();
    for (const { run } of commands) {
      run(stepOf(bucket));
      device.synchronize();
    }
    const want = await read(), program = fuse(commands, moduleLabel, bench.find), launch = (): void => program.forEach(({ run }) => run(stepOf(bucket)));
    launch(); // what launches set up for themselves is set up outside the capture
    const graph = device.capture(launch);
    let different = 0;
    for (let times = 0; times < (dry ? 1 : 20); times++) {
      reset();
      graph.launch();
      if (differing(await read(), want) > 0) different++;
    }
    report.result(() => {
      const finite = toFloat32(want.subarray(0, 4 * rows * dim), "f32").every(Number.isFinite), poisoned = toFloat32(want.subarray(4 * rows * dim, 4 * rows * dim + 2 * rows * width), element).some(Number.isNaN);
      return [different === 0 && finite && !poisoned, `chain of ${commands.length}, joined (${joins}) to ${program.length}, at ${rows} rows: ${different} of 20 replays differ${finite ? "" : ", not finite"}${poisoned ? ", qkv not written" : ""}`];
    }, true);
    graph.destroy();
  }
}
