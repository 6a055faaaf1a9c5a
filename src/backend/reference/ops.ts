/**
 * The definition of every operation but attention: plain loops, sums in double, results rounded once to the type they are written in.
 *
 * Every other backend is compared with this file. Nothing here is fast on purpose; row counts are read from the batch
 * header when an operation runs.
 */
import { fromFloat32 } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { bytesPerKvElement } from "../../ir/plan.ts";
import { type Activation, type ActivationFunction, type BatchInputs, headerWord, type KvCache, type Ops, type RowCount, type SamplingOps } from "../backend.ts";
import { activationRowBytes, activationValues, isQuantized, quantizeActivations } from "../quantized.ts";
import { bytesOf, f32Of, type FloatType, floatsAt, i32Of, putFloats, weightRow } from "./memory.ts";

const countWord: Readonly<Record<RowCount, number>> = { tokens: headerWord.numTokens, logits: headerWord.numLogits };

/** How many rows of `matrix` this step has. */
function rowsOf(matrix: Activation, batch: BatchInputs): number {
  return i32Of(batch.header)[countWord[matrix.rows]]!;
}

/** The type of a `matrix` that is not in blocks. */
function floatType({ dtype = "f32" }: Activation): FloatType {
  invariant(dtype !== "int8", "an activation of int8 where floats are wanted");
  return dtype;
}

/** The rows of a `matrix` of floats in this step as f32: views into its memory, or copies where it is of 16 bits. */
function rows(matrix: Activation, batch: BatchInputs): Float32Array[] {
  const type = floatType(matrix);
  return Array.from({ length: rowsOf(matrix, batch) }, (_, r) => floatsAt(matrix.data, type, r * matrix.stride, matrix.columns));
}

/** The rows of an int8 `matrix` in this step, as bytes in its memory. */
function blockRows(matrix: Activation, batch: BatchInputs): Uint8Array[] {
  const data = bytesOf(matrix.data), bytes = activationRowBytes(matrix.columns);
  const count = rowsOf(matrix, batch);
  invariant(count === 0 || (count - 1) * matrix.stride + bytes <= data.length, `${count} rows of blocks do not fit an activation of ${matrix.data.bytes} bytes`);
  return Array.from({ length: count }, (_, r) => data.subarray(r * matrix.stride, r * matrix.stride + bytes));
}

/** Writes the rows of `out`, rounded to its type. `row(r)` computes row r in double. */
function writeRows(out: Activation, batch: BatchInputs, row: (r: number) => ArrayLike<number>): void {
  if (out.dtype === "int8") return blockRows(out, batch).forEach((to, r) => to.set(quantizeActivations(Float32Array.from(row(r)))));
  const type = floatType(out);
  for (let r = 0; r < rowsOf(out, batch); r++) putFloats(out.data, type, r * out.stride, row(r));
}

/** erf(x) = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, whose terms are all of one sign. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** The nonlinearities, in double. */
export const activationFunctions: Readonly<Record<ActivationFunction, (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  relu: (x) => Math.max(x, 0),
};

/** x / sqrt(mean(x^2) + epsilon) * weight, not yet rounded. */
function normalised(x: Float32Array, weight: Float32Array, epsilon: number): Float64Array {
  let squares = 0;
  for (const value of x) squares += value * value;
  const factor = 1 / Math.sqrt(squares / x.length + epsilon);
  return Float64Array.from(x, (value, i) => value * factor * weight[i]!);
}

/** Writes the heads of one token, one behind the other in `row`, to their places in the cache. */
function keeper({ data, format, pageSize, numHeads, headDim }: KvCache): (row: Float32Array, slot: number) => void {
  const bytes = bytesOf(data), elementBytes = bytesPerKvElement[format];
  return (row, slot) => {
    const page = Math.floor(slot / pageSize), token = slot % pageSize;
    invariant(slot >= 0 && (page + 1) * pageSize * numHeads * headDim * elementBytes <= bytes.length, `slot ${slot} is outside the KV pool`);
    for (let h = 0; h < numHeads; h++) {
      bytes.set(fromFloat32(row.subarray(h * headDim, (h + 1) * headDim), format), ((page * numHeads + h) * pageSize + token) * headDim * elementBytes);
    }
  };
}

export const definitions: Omit<Ops, "attention" | keyof SamplingOps> = {
  embed({ out, table, batch, scale }) {
    const tokens = i32Of(batch.tokens);
    writeRows(out, batch, (t) => Float64Array.from(weightRow(table, tokens[t]!), (x) => x * scale));
  },

  rmsNorm({ out, x, weight, epsilon, residual, batch }) {
    const w = f32Of(weight);
    const from = rows(x, batch);
    const added = residual && rows(residual, batch);
    writeRows(out, batch, (r) => normalised(from[r]!, w, epsilon).map((y, i) => y + (added ? added[r]![i]! : 0)));
  },

  quantize({ out, x, batch }) {
    invariant(out.dtype === "int8", "quantize writes int8 blocks");
    const from = rows(x, batch);
    writeRows(out, batch, (r) => from[r]!);
  },

  linear({ out, x, weight, bias, residual, batch }) {
    invariant(weight.columns === x.columns && weight.rows === out.columns, `linear [${weight.rows}, ${weight.columns}] from ${x.columns} to ${out.columns} columns`);
    const b = bias && f32Of(bias);
    invariant((x.dtype === "int8") === isQuantized(weight.dtype), `activations of ${x.dtype ?? "f32"} meet weights of ${weight.dtype}`);
    const from = x.dtype === "int8" ? blockRows(x, batch).map((row) => activationValues(row, x.columns)) : rows(x, batch);
    const added = residual && rows(residual, batch);
    const sums = from.map(() => new Float64Array(weight.rows));
    for (let n = 0; n < weight.rows; n++) {
      const w = weightRow(weight, n);
      for (let r = 0; r < sums.length; r++) {
        const row = from[r]!;
        let sum = 0;
        for (let k = 0; k < w.length; k++) sum += row[k]! * w[k]!;
        sums[r]![n] = sum + (b ? b[n]! : 0) + (added ? added[r]![n]! : 0);
      }
    }
    writeRows(out, batch, (r) => sums[r]!);
  },

  ropeAndCache({ qkv, numQueryHeads, key, value, rotary, rotaryDim, qNorm, kNorm, epsilon, batch }) {
    const { headDim, numHeads: numKvHeads } = key;
    invariant(qkv.columns === (numQueryHeads + numKvHeads) * headDim + numKvHeads * value.headDim, `a packed row of ${qkv.columns} columns`);
    const half = rotaryDim / 2;
    const table = f32Of(rotary);
    const positions = i32Of(batch.positions);
    const slots = i32Of(batch.slots);
    const norms = [qNorm && f32Of(qNorm), kNorm && f32Of(kNorm)];
    const keep = [keeper(key), keeper(value)] as const;
    const packed = rows(qkv, batch);
    packed.forEach((row, t) => {
      const angles = 2 * half * positions[t]!;
      invariant(angles >= 0 && angles + 2 * half <= table.length, `position ${positions[t]} is outside the rotary table`);
      for (let h = 0; h < numQueryHeads + numKvHeads; h++) {
        const head = row.subarray(h * headDim, (h + 1) * headDim);
        const norm = norms[h < numQueryHeads ? 0 : 1];
        const x: ArrayLike<number> = norm ? normalised(head, norm, epsilon) : Float64Array.from(head);
        for (let i = 0; i < headDim; i++) head[i] = x[i]!;
        for (let i = 0; i < half; i++) {
          const cos = table[angles + 2 * i]!, sin = table[angles + 2 * i + 1]!;
          head[i] = x[i]! * cos - x[i + half]! * sin;
          head[i + half] = x[i + half]! * cos + x[i]! * sin;
        }
      }
      const kBegin = numQueryHeads * headDim, vBegin = kBegin + numKvHeads * headDim;
      keep[0](row.subarray(kBegin, vBegin), slots[t]!);
      keep[1](row.subarray(vBegin), slots[t]!);
    });
    writeRows(qkv, batch, (t) => packed[t]!);
  },

  gatedActivation({ out, gateUp, activation, batch }) {
    const f = activationFunctions[activation];
    const from = rows(gateUp, batch);
    writeRows(out, batch, (r) => Float64Array.from({ length: out.columns }, (_, i) => f(from[r]![i]!) * from[r]![out.columns + i]!));
  },

  gatherRows({ out, x, batch }) {
    const from = rows(x, batch);
    const wanted = i32Of(batch.logitRows);
    writeRows(out, batch, (i) => {
      const row = from[wanted[i]!];
      invariant(row, `logits of row ${wanted[i]} of ${from.length} are wanted`);
      return row;
    });
  },

  softCap({ x, cap, batch }) {
    const from = rows(x, batch);
    writeRows(x, batch, (r) => Float64Array.from(from[r]!, (y) => cap * Math.tanh(y / cap)));
  },
};
