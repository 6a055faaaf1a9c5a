/** Ops that work row by row, against loops in float64: embed, rmsNorm, gatedActivation, ropeAndCache, gatherRows, softCap. */
import type { ActivationFunction, KvCache } from "../../src/backend/backend.ts";
import type { Element } from "../../src/backend/cuda/modules.ts";
import { activationFunctions } from "../../src/backend/reference/ops.ts";
import type { Matrix } from "./arena.ts";
import { bucketOf, type OpsBench, stepOf, tolerance } from "./ops-bench.ts";

/** x normalised, in float64. */
function normed(x: Float32Array, from: number, n: number, weight: Float32Array, epsilon: number): Float64Array {
  let squares = 0;
  for (let i = 0; i < n; i++) squares += x[from + i]! ** 2;
  const factor = 1 / Math.sqrt(squares / n + epsilon);
  return Float64Array.from({ length: n }, (_, i) => x[from + i]! * factor * weight[i]!);
}

/** Heads, dims and rotated elements; `norm`: queries and keys are normalised. */
const ropeShapes = [
  { hq: 32, hk: 8, d: 128, dv: 128, rot: 128, norm: false }, { hq: 14, hk: 2, d: 64, dv: 64, rot: 64, norm: false }, { hq: 16, hk: 8, d: 128, dv: 128, rot: 128, norm: true },
  { hq: 8, hk: 4, d: 256, dv: 256, rot: 256, norm: true }, { hq: 4, hk: 4, d: 80, dv: 80, rot: 32, norm: false }, { hq: 3, hk: 1, d: 96, dv: 64, rot: 96, norm: true }, { hq: 5, hk: 5, d: 20, dv: 12, rot: 12, norm: true },
  { hq: 2, hk: 1, d: 8, dv: 8, rot: 8, norm: true }, { hq: 2, hk: 2, d: 64, dv: 192, rot: 0, norm: false },
] as const;

export async function checkRows(bench: OpsBench, element: Element): Promise<void> {
  const { machine: { report }, arena, ops } = bench;
  await report.section(`embed ${element}`, async () => {
    for (const [rows, columns] of [[1, 8], [3, 896], [33, 4096], [300, 2304]] as const) {
      arena.top = 0;
      const bucket = bucketOf(rows), table = arena.numbers(500 * columns, element), tokens = Array.from({ length: bucket }, (_, i) => (i * 37) % 500), out = arena.output(bucket, columns, columns + 8, "f32");
      bench.step = stepOf(bucket);
      ops.embed({ out: out.a, table: { data: table.buffer, dtype: element, rows: 500, columns }, batch: bench.batch(rows, { tokens: arena.ints(tokens) }), scale: 1.7 });
      await bench.compare(`embed ${rows} x ${columns}`, out, rows, () => (r, c) => [table.values[tokens[r]! * columns + c]! * Math.fround(1.7), 0]);
    }
  });

  await report.section(`rmsNorm ${element}`, async () => {
    for (const [rows, columns] of [[1, 8], [2, 64], [3, 896], [7, 2304], [9, 4096], [33, 5120], [5, 16384], [2, 20480], [300, 4096]] as const) for (const type of [element, "f32"] as const) for (const mode of ["plain", "residual", "in place"] as const) {
      if (mode === "in place" && type !== "f32") continue;
      arena.top = 0;
      const bucket = bucketOf(rows), x = arena.input(rows, columns, columns + 16, "f32", 3), weight = arena.numbers(columns, "f32");
      const residual = mode === "plain" ? undefined : arena.input(bucket, columns, columns + 8, "f32");
      const out = mode === "in place" ? residual! : arena.output(bucket, columns, columns + 8, type);
      if (mode === "in place") arena.poisonRest(out, rows);
      bench.step = stepOf(bucket);
      ops.rmsNorm({ out: out.a, x: x.a, weight: weight.buffer, epsilon: 1e-5, ...(residual && { residual: residual.a }), batch: bench.batch(rows) });
      await bench.compare(`rmsNorm ${rows} x ${columns} ${type} ${mode}`, out, rows, () => {
        const want = Array.from({ length: rows }, (_, r) => normed(x.values, r * (columns + 16), columns, weight.values, 1e-5));
        return (r, c) => [want[r]![c]! + (residual ? residual.values[r * (columns + 8) + c]! : 0), Math.abs(want[r]![c]!) + (residual ? 1 : 0)];
      });
    }
  });

  await report.section(`gatedActivation ${element}`, async () => {
    for (const f of ["silu", "geluTanh", "gelu", "relu"] as const satisfies readonly ActivationFunction[]) for (const [rows, columns] of [[1, 8], [3, 4864], [33, 14336], [129, 2056]] as const) {
      arena.top = 0;
      const bucket = bucketOf(rows), gateUp = arena.input(rows, 2 * columns, 2 * columns + 8, element, rows === 3 ? 30 : 4), out = arena.output(bucket, columns, columns + 24, element);
      bench.step = stepOf(bucket);
      ops.gatedActivation({ out: out.a, gateUp: gateUp.a, activation: f, batch: bench.batch(rows) });
      await bench.compare(`${f} ${rows} x ${columns}`, out, rows, () => (r, c) => {
        const at = r * (2 * columns + 8) + c, u = gateUp.values[at + columns]!, y = activationFunctions[f](gateUp.values[at]!) * u;
        return [y, Math.abs(y) + 1e-3 * Math.abs(u)]; // beside its own size: cancellation where the function is near 0
      }, { sample: 20_000 });
    }
  });

  await report.section(`ropeAndCache ${element}`, async () => {
    for (const shape of ropeShapes) for (const rows of [1, 3, 37, 130]) for (const format of rows === 37 ? (["f32", "bf16", "f16"] as const) : [element]) await checkRope(bench, element, shape, rows, format);
  });

  await report.section(`gatherRows, softCap beside ${element}`, async () => {
    for (const [rows, columns] of [[1, 8], [3, 1001], [33, 4096], [5, 151937]] as const) {
      arena.top = 0;
      const bucket = bucketOf(rows), stride = columns + 4, x = arena.input(64, columns, stride, "f32", 60), wanted = Array.from({ length: bucket }, (_, i) => (i * 29) % 64), out = arena.output(bucket, columns, columns + 3, "f32", "logits");
      bench.step = { numTokens: 64, numSequences: 1, numLogits: bucket };
      const batch = bench.batch(64, { logitRows: arena.ints(wanted) }, rows);
      ops.gatherRows({ out: out.a, x: x.a, batch });
      await bench.compare(`gatherRows ${rows} x ${columns}`, out, rows, () => (r, c) => [x.values[wanted[r]! * stride + c]!, 0], { sample: 20_000 });
      ops.softCap({ x: out.a, cap: 30, batch });
      await bench.compare(`softCap ${rows} x ${columns}`, out, rows, () => (r, c) => [30 * Math.tanh(x.values[wanted[r]! * stride + c]! / 30), 1], { sample: 20_000 });
    }
  });
}

/** Queries and keys are rotated where they lie; keys and values go into pages too, and nowhere else. */
async function checkRope(bench: OpsBench, element: Element, { hq, hk, d, dv, rot, norm }: (typeof ropeShapes)[number], rows: number, format: "f32" | Element): Promise<void> {
  const { machine: { report, dry }, arena, ops } = bench;
  arena.top = 0;
  const columns = (hq + hk) * d + hk * dv, stride = columns % 8 === 0 ? columns + 8 : columns, half = rot / 2, maxPositions = 300, pageSize = 16, pages = 24, bucket = bucketOf(rows);
  const qkv = arena.input(bucket, columns, stride, element, 2), rotary = arena.numbers(maxPositions * Math.max(rot, 1), "f32"), norms = [arena.numbers(d, "f32"), arena.numbers(d, "f32")] as const;
  arena.poisonRest(qkv, rows);
  const positions = Array.from({ length: bucket }, (_, i) => (i * 7 + 3) % maxPositions), slots = Array.from({ length: bucket }, (_, i) => (i * 53 + 11) % (pages * pageSize));
  const cache = (dim: number): Matrix & { readonly cache: KvCache } => {
    const m = arena.output(pages * hk * pageSize, dim, dim, format);
    return { ...m, cache: { data: m.buffer, format, pageSize, numHeads: hk, headDim: dim } };
  };
  const key = cache(d), value = cache(dv);
  bench.step = stepOf(bucket);
  ops.ropeAndCache({
    qkv: qkv.a, numQueryHeads: hq, key: key.cache, value: value.cache, rotary: rotary.buffer, rotaryDim: rot, ...(norm && { qNorm: norms[0].buffer, kNorm: norms[1].buffer }), epsilon: 1e-6,
    batch: bench.batch(rows, { positions: arena.ints(positions), slots: arena.ints(slots) }),
  });
  const wanted = (): readonly Float64Array[] => Array.from({ length: rows }, (_, r) => {
    const out = Float64Array.from(qkv.values.subarray(r * stride, r * stride + columns));
    for (let h = 0; h < hq + hk; h++) {
      const from = r * stride + h * d, x = norm ? normed(qkv.values, from, d, norms[h < hq ? 0 : 1].values, 1e-6) : Float64Array.from(qkv.values.subarray(from, from + d));
      out.set(x, h * d);
      for (let i = 0; i < half; i++) {
        const at = positions[r]! * rot + 2 * i, cos = rotary.values[at]!, sin = rotary.values[at + 1]!;
        out[h * d + i] = x[i]! * cos - x[i + half]! * sin;
        out[h * d + i + half] = x[i + half]! * cos + x[i]! * sin;
      }
    }
    return out;
  });
  const what = `rope ${hq}/${hk} x ${d}/${dv} rotary ${rot} rows ${rows} cache ${format}`, want = dry ? [] : wanted();
  await bench.compare(what, qkv, rows, () => (r, c) => [want[r]![c]!, 1]);
  for (const [name, m, dim, first] of [["keys", key, d, hq * d], ["values", value, dv, (hq + hk) * d]] as const) {
    const got = await arena.read(m.buffer, format), expected = new Float64Array(got.length).fill(NaN);
    for (let r = 0; r < want.length; r++) for (let h = 0; h < hk; h++) {
      const at = ((Math.floor(slots[r]! / pageSize) * hk + h) * pageSize + (slots[r]! % pageSize)) * dim;
      for (let e = 0; e < dim; e++) expected[at + e] = want[r]![first + h * dim + e]!;
    }
    report.result(() => {
      let wrong = 0;
      for (let i = 0; i < got.length; i++) if (Number.isNaN(expected[i]) ? !Number.isNaN(got[i]) : !(Math.abs(got[i]! - expected[i]!) <= tolerance(format, expected[i]!, 1))) wrong++;
      return [wrong === 0, `${what}: ${wrong} wrong ${name} in the cache`];
    }, true);
  }
}
