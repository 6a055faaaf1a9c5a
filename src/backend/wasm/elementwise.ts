/**
 * The ops that touch each element once: embed, rmsNorm, gatedActivation, gatherRows, softCap.
 *
 * A piece of work is a row, or where elements do not depend on each other a stretch of 512 columns of one, so that threads share
 * a single wide row too. Every kernel starts with the words `header` and `rowsWord`. Addresses in bytes, strides and columns in
 * elements of f32. Knows no ops and no buffers.
 */
import { f32, f32x4, i32, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, kernel, type MakeLocal } from "./kernel.ts";
import { KeptConstants, type MathLibrary, tanhInPlace } from "./math.ts";
import { quantizeColumns } from "./quantize.ts";
import { bytesPerWeight, overColumns, overStretches, rmsFactor, rowAddress, rowCount, rowWords, splatArgument, type Lanes, type WeightType } from "./rows.ts";

/** How a kernel writes rows that a matrix is multiplied with: f32, or int8 blocks (backend/quantized.ts) with strides in bytes. */
export type RowType = "f32" | "int8";
const suffix: Readonly<Record<RowType, string>> = { f32: "", int8: "_int8" };
/** The address of a row of `out`. */
const outAddress = (type: RowType, base: Node, row: Operand, stride: Node): Node => (type === "f32" ? rowAddress(base, row, stride) : i32.add(base, i32.mul(row, stride)));
/** Writes the elements at byte offsets [from, to) of f32 of a row. */
const writeRow = (type: RowType, local: MakeLocal, out: Local, from: Operand, to: Local, value: (lanes: Lanes, i: Local) => Node): Node[] =>
  type === "f32" ? overColumns(local, from, to, (lanes, i) => [lanes.store(out, i, value(lanes, i))]) : quantizeColumns(local, out, from, to, value);

/** out[t, :] = table[tokens[t], :] * scale. table: [vocabulary, columns] without gaps; tokens: i32 [rows]; scale: f32. */
export const embedArgs = { ...rowWords, out: 2, outStride: 3, table: 4, tokens: 5, columns: 6, scale: 7 } as const;

/** Adds `embed_f32` or `embed_bf16`. The table lies in the memory `weights`. */
export function embed(m: Module, dtype: WeightType): Func {
  const weights = m.memory("weights");
  return kernel(m, `embed_${dtype}`, (args, _thread, local) => {
    const row = local("i32", "row"), rows = local("i32", "rows"), bytes = local("i32", "bytes"), from = local("i32", "from"), to = local("i32", "to");
    const scale = local("v128", "scale");
    const token = i32.load(i32.add(argument(args, embedArgs.tokens), i32.shl(row, 2)));
    return [
      rows.set(rowCount(args)),
      bytes.set(i32.shl(argument(args, embedArgs.columns), 2)),
      scale.set(splatArgument(args, embedArgs.scale)),
      forEachClaimed(row, rows, [
        from.set(i32.add(argument(args, embedArgs.table), i32.mul(i32.mul(token, argument(args, embedArgs.columns)), bytesPerWeight[dtype]))),
        to.set(rowAddress(argument(args, embedArgs.out), row, argument(args, embedArgs.outStride))),
        ...overColumns(local, 0, bytes, (lanes, i) => [lanes.store(to, i, f32x4.mul(lanes.loadWeight(dtype, weights, from, i), scale))]),
      ]),
    ];
  });
}

/**
 * out[r, :] = (residual[r, :] +) x[r, :] * weight / sqrt(mean(x[r, :]^2) + epsilon). weight: f32 [columns]; epsilon: f32;
 * residual may be `out`, 0: none. x may be `out`.
 */
export const rmsNormArgs = { ...rowWords, out: 2, outStride: 3, x: 4, xStride: 5, columns: 6, weight: 7, epsilon: 8, residual: 9, residualStride: 10 } as const;

/** Adds `rmsNorm`, or `rmsNorm_int8`, which takes no residual. The order of the sum of squares is that of `rmsFactor`. */
export function rmsNorm(m: Module, type: RowType): Func {
  return kernel(m, `rmsNorm${suffix[type]}`, (args, _thread, local) => {
    const word = (name: keyof typeof rmsNormArgs): Node => argument(args, rmsNormArgs[name]);
    const row = local("i32", "row"), rows = local("i32", "rows"), bytes = local("i32", "bytes");
    const x = local("i32", "x"), to = local("i32", "to"), weight = local("i32", "weight"), residual = local("i32", "residual");
    const factor = local("v128", "factor");
    const normal = (lanes: Lanes, i: Local): Node => f32x4.mul(f32x4.mul(lanes.load(x, i), factor), lanes.load(weight, i));
    return [
      rows.set(rowCount(args)),
      bytes.set(i32.shl(word("columns"), 2)),
      weight.set(word("weight")),
      forEachClaimed(row, rows, [
        x.set(rowAddress(word("x"), row, word("xStride"))),
        to.set(outAddress(type, word("out"), row, word("outStride"))),
        residual.set(rowAddress(word("residual"), row, word("residualStride"))),
        ...rmsFactor(local, factor, x, bytes, f32.load(args, 4 * rmsNormArgs.epsilon)),
        ...(type === "int8" ? writeRow(type, local, to, 0, bytes, normal) : [when(
          word("residual"),
          writeRow(type, local, to, 0, bytes, (lanes, i) => f32x4.add(lanes.load(residual, i), normal(lanes, i))),
          writeRow(type, local, to, 0, bytes, normal),
        )]),
      ]),
    ];
  });
}

/** out[r, i] = f(gateUp[r, i]) * gateUp[r, columns + i], columns being out's. */
export const gatedActivationArgs = { ...rowWords, out: 2, outStride: 3, gateUp: 4, gateUpStride: 5, columns: 6 } as const;

/** f(x); `held` is free to keep x in where it is used twice. */
const activations = {
  silu: (math: MathLibrary, x: Node, held: Local): Node => f32x4.mul(held.tee(x), math.sigmoid(held)),
  geluTanh: (math: MathLibrary, x: Node): Node => math.geluTanh(x),
  gelu: (math: MathLibrary, x: Node): Node => math.gelu(x),
  relu: (_: MathLibrary, x: Node): Node => f32x4.max(x, splat.f32(0)),
} as const;
export type GatedActivation = keyof typeof activations;
export const gatedActivations = Object.keys(activations) as readonly GatedActivation[];

/** Adds `gated_silu`, `gated_geluTanh`, `gated_gelu` or `gated_relu`, with `_int8` behind it where it writes such rows. */
export function gatedActivation(m: Module, math: MathLibrary, activation: GatedActivation, type: RowType): Func {
  return kernel(m, `gated_${activation}${suffix[type]}`, (args, _thread, local) => {
    const word = (name: keyof typeof gatedActivationArgs): Node => argument(args, gatedActivationArgs[name]);
    const gate = local("i32", "gate"), up = local("i32", "up"), out = local("i32", "out"), x = local("v128", "x");
    const value = (lanes: Lanes, i: Local): Node => f32x4.mul(activations[activation](math, lanes.load(gate, i), x), lanes.load(up, i));
    return overStretches(args, local, word("columns"), (row, from, to) => [
      gate.set(rowAddress(word("gateUp"), row, word("gateUpStride"))),
      up.set(i32.add(gate, i32.shl(word("columns"), 2))),
      out.set(outAddress(type, word("out"), row, word("outStride"))),
      ...writeRow(type, local, out, from, to, value),
    ]);
  });
}

/** out[i, :] = x[rows[i], :]; `logitRows`: i32 [rows]. */
export const gatherRowsArgs = { ...rowWords, out: 2, outStride: 3, x: 4, xStride: 5, columns: 6, logitRows: 7 } as const;

/** Adds `gatherRows`. */
export function gatherRows(m: Module): Func {
  return kernel(m, "gatherRows", (args, _thread, local) => {
    const word = (name: keyof typeof gatherRowsArgs): Node => argument(args, gatherRowsArgs[name]);
    const row = local("i32", "row"), rows = local("i32", "rows"), bytes = local("i32", "bytes"), x = local("i32", "x"), out = local("i32", "out");
    return [
      rows.set(rowCount(args)),
      bytes.set(i32.shl(word("columns"), 2)),
      forEachClaimed(row, rows, [
        x.set(rowAddress(word("x"), i32.load(i32.add(word("logitRows"), i32.shl(row, 2))), word("xStride"))),
        out.set(rowAddress(word("out"), row, word("outStride"))),
        ...overColumns(local, 0, bytes, (lanes, i) => [lanes.store(out, i, lanes.load(x, i))]),
      ]),
    ];
  });
}

/** x = cap * tanh(x / cap), in place; cap: f32. */
export const softCapArgs = { ...rowWords, x: 2, xStride: 3, columns: 4, cap: 5 } as const;

/** Adds `softCap`. */
export function softCap(m: Module): Func {
  return kernel(m, "softCap", (args, thread, local) => {
    const x = local("i32", "x"), cap = local("v128", "cap"), ratio = local("v128", "ratio"), bent = local("v128", "bent"), zero = local("i32", "zero"), constants = new KeptConstants(local);
    const bend = tanhInPlace(local, ratio, bent, constants.f32);
    return [
      zero.set(i32.shr_u(thread, 31)),
      ...constants.code(zero),
      cap.set(v128.load32_splat(args, 4 * softCapArgs.cap)),
      ...overStretches(args, local, argument(args, softCapArgs.columns), (row, from, to) => [
        x.set(rowAddress(argument(args, softCapArgs.x), row, argument(args, softCapArgs.xStride))),
        ...overColumns(local, from, to, (lanes, i) => [ratio.set(f32x4.div(lanes.load(x, i), cap)), ...bend, lanes.store(x, i, f32x4.mul(cap, bent))]),
      ]),
    ];
  });
}
