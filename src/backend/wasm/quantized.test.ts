import assert from "node:assert/strict";
import { test } from "node:test";
import { fromF16 } from "../../core/dtype.ts";
import { activationValues, blocksOf, dequantizeRow, packedRowBytes, panelRows, quantizeActivations, quantizedBytes, type QuantizedDType, quantizedFormats } from "../quantized.ts";
import { Alone, difference } from "./alone.ts";
import { i16x8, i32x4, i8x16, type Operand } from "./assembler.ts";
import { type DotOperand, packArgs, panelBlockBytes, writePanels } from "./panels.ts";
import { type Dot, piecePanels, probeDot, quantizedEmbedArgs, quantizedLinearArgs, quantizedModule } from "./quantized.ts";

const dtypes = Object.keys(quantizedFormats) as readonly QuantizedDType[];
const depths = [1, 31, 32, 33, 127, 128, 129, 1024], widths = [1, 15, 16, 17, 64, 80, 127, 129];
const most = 64;
const everyCount = Array.from({ length: most + 1 }, (_, rows) => rows);

/** The dot product that some machines have, made of exact instructions that all have. */
const exactDot = (extend: "s" | "u"): Dot => (x, codes, sum) => {
  const half = (part: "low" | "high") => i32x4.dot_i16x8_s(i16x8[`extend_${part}_i8x16_s`](x), i16x8[`extend_${part}_i8x16_${extend}`](codes));
  const words = (...lanes: readonly number[]) => i8x16.shuffle(half("low"), half("high"), lanes.flatMap((lane) => [0, 1, 2, 3].map((byte) => 4 * lane + byte)));
  return i32x4.add(sum as Operand, i32x4.add(words(0, 2, 4, 6), words(1, 3, 5, 7)));
};
const machine = probeDot();
/** How each kind of machine would compute; undefined: as this one does. */
const dots: Readonly<Record<DotOperand, Dot | undefined>> = {
  unsigned8: machine === "unsigned8" ? undefined : exactDot("u"),
  signed8: machine === "signed8" ? undefined : exactDot("s"),
  "7bits": undefined,
};
const operands = Object.keys(dots) as readonly DotOperand[];
/** One for all tests: a module is written and compiled once. */
const beds = new Map<string, Alone>();
function bedOf(dtype: QuantizedDType, operand: DotOperand): Alone {
  const key = `${dtype} ${operand}`;
  const bed = beds.get(key) ?? new Alone(quantizedModule(dtype, operand, dots[operand]));
  beds.set(key, bed);
  return bed;
}

/** xorshift32, uniform in [-1, 1) */
function random(seed: number): () => number {
  return () => {
    seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5;
    return seed / 2 ** 31;
  };
}
const filled = (count: number, next: () => number): Float32Array => Float32Array.from({ length: count }, next);
const below = (n: number, next: () => number): number => Math.floor(((next() + 1) / 2) * n);

/** Bits of an f16 that may be held: zeros of both signs and subnormal ones among them, the largest too. */
function someF16(i: number, signed: boolean, next: () => number): number {
  const sign = signed && next() < 0 ? 0x8000 : 0;
  switch (i % 11) {
    case 0: return 0;
    case 1: return 0x8000;
    case 2: return sign | (1 + below(1023, next));
    case 3: return sign | 0x47ff;
    default: return sign | (0x1400 + below(0x2000, next));
  }
}

/** Random rows as packed blocks; what is behind a row's last column in its last block is rubbish. */
function randomRows(dtype: QuantizedDType, rows: number, columns: number, next: () => number): Uint8Array<ArrayBuffer> {
  const { blockBytes, hasMin } = quantizedFormats[dtype];
  const packed = Uint8Array.from({ length: rows * packedRowBytes(dtype, columns) }, () => below(256, next)), view = new DataView(packed.buffer);
  for (let at = 0, i = rows; at < packed.length; at += blockBytes, i++) {
    view.setUint16(at, someF16(i, dtype === "int4", next), true);
    if (hasMin) view.setUint16(at + 2, someF16(i + 5, true, next), true);
  }
  return packed;
}

interface Case { readonly dtype: QuantizedDType; readonly k: number; readonly n: number; readonly rows?: number; readonly extras: "none" | "bias" | "both"; readonly piecePanels?: number }

/** A problem with `rows` rows, placed in the memory of a kind of machine, and how to run some of them. */
class Problem {
  readonly c: Case;
  readonly bed: Alone;
  readonly rows: number;
  readonly packed: Uint8Array<ArrayBuffer>;
  readonly x: readonly Uint8Array<ArrayBuffer>[];
  readonly bias: Float32Array; readonly residual: Float32Array;
  readonly xStride: number; readonly outStride: number;
  readonly #at: { readonly header: number; readonly x: number; readonly weight: number; readonly bias: number; readonly residual: number; readonly out: number };

  constructor(c: Case, operand: DotOperand) {
    const { dtype, k, n } = c, next = random(1 + k * 1000 + n), bed = bedOf(dtype, operand);
    this.c = c;
    this.bed = bed;
    this.rows = c.rows ?? most;
    this.packed = randomRows(dtype, n, k, next);
    this.x = Array.from({ length: this.rows }, (_, r) => quantizeActivations(filled(k, r === 5 ? () => 0 : next)));
    this.bias = filled(n, next);
    this.outStride = n + 5;
    this.residual = filled(this.rows * this.outStride, next);
    this.xStride = this.x[0]!.length + 12;
    const x = new Uint8Array(this.rows * this.xStride).fill(0x7f); // between rows: numbers that would show
    this.x.forEach((row, r) => x.set(row, r * this.xStride));
    const panels = new Uint8Array(quantizedBytes(dtype, n, k)).fill(0xff); // rows behind the last one too
    writePanels(panels, dtype, k, 0, this.packed, operand);
    this.#at = {
      header: bed.place(Int32Array.of(-1, -1, 0, -1)), x: bed.place(x, 4), weight: bed.place(panels, 4),
      bias: bed.place(this.bias, 4), residual: bed.place(this.residual, 8), out: bed.placeEmpty(this.rows * this.outStride),
    };
  }

  /** The bits of `out` after running `rows` rows from row `first`; out is poisoned before, unless it starts as the residual. */
  run(rows: number, first = 0, inPlace = false): Int32Array {
    const { c, bed } = this, at = this.#at;
    bed.words(at.header, 4)[2] = rows;
    const out = bed.words(at.out, this.rows * this.outStride);
    out.fill(0x7fc0dead);
    if (inPlace) for (let r = 0; r < rows; r++) bed.floats(at.out, out.length).set(this.residual.subarray((first + r) * this.outStride, (first + r) * this.outStride + c.n), r * this.outStride);
    bed.run(`linear_${c.dtype}`, quantizedLinearArgs, {
      header: at.header, rowsWord: 2, out: at.out, outStride: 4 * this.outStride, x: at.x + first * this.xStride, xStride: this.xStride,
      weight: at.weight, n: c.n, blocks: blocksOf(c.k), bias: c.extras === "none" ? 0 : at.bias,
      residual: c.extras !== "both" ? 0 : inPlace ? at.out : at.residual + 4 * first * this.outStride, residualStride: 4 * this.outStride,
      piecePanels: c.piecePanels ?? piecePanels(c.dtype, blocksOf(c.k)),
    });
    return out.slice();
  }

  /** What is wrong with the rows of `bits`, as bits of single precision, by sums in double of what the blocks mean. */
  inexact(row: number, bits: Int32Array): string | undefined {
    const { dtype, k, n, extras } = this.c, rowBytes = packedRowBytes(dtype, k), { blockBytes, hasMin } = quantizedFormats[dtype];
    const x = activationValues(this.x[row]!, k), out = new Float32Array(bits.buffer);
    // A block takes two roundings of its products and two of the sum, bias and residual one each; each at most half an ulp of all magnitudes.
    const roundings = 4 * blocksOf(k) + 2;
    for (let j = 0; j < n; j++) {
      const packed = this.packed.subarray(j * rowBytes, (j + 1) * rowBytes), w = dequantizeRow(packed, dtype, k);
      let sum = 0, magnitude = 0;
      for (let i = 0; i < k; i++) {
        const at = Math.floor(i / 32) * blockBytes + 2, min = hasMin ? fromF16(packed[at]! | (packed[at + 1]! << 8)) : 0;
        sum += x[i]! * w[i]!;
        magnitude += Math.abs(x[i]!) * (Math.abs(w[i]! - min) + Math.abs(min));
      }
      for (const term of [extras === "none" ? 0 : this.bias[j]!, extras === "both" ? this.residual[row * this.outStride + j]! : 0]) {
        sum += term;
        magnitude += Math.abs(term);
      }
      if (!(Math.abs(out[j]! - sum) <= roundings * 2 ** -24 * magnitude)) return `column ${j} is ${out[j]}, ${sum} wanted`;
    }
    return undefined;
  }
}

for (const dtype of dtypes) {
  test(`rows of linear_${dtype} have the bits of one row alone, in every shape and whatever a machine's dot product takes, within the roundings of a sum in double`, () => {
    for (const k of depths) for (const n of widths) for (const extras of ["none", "bias", "both"] as const) {
      if (extras === "bias" && k !== 33) continue;
      const what = `K ${k}, N ${n}, extras ${extras}`;
      let alone: readonly Int32Array[] | undefined;
      for (const operand of operands) {
        const p = new Problem({ dtype, k, n, extras }, operand);
        if (!alone) {
          alone = Array.from({ length: most }, (_, r) => p.run(1, r).slice(0, n));
          for (const r of [0, 5, 6]) assert.equal(p.inexact(r, alone[r]!), undefined, `${what}, row ${r}`);
        }
        // Every shape of tile and what is left of it; at one depth and for this machine's own kernels every count.
        for (const rows of k === 33 && operand === machine ? everyCount : [1, 5, 6, 10, 12, 13, 40, 41, most]) {
          assert.equal(difference(p.run(rows), alone, rows, n, p.outStride), undefined, `${what}, ${rows} rows, ${operand}`);
        }
        if (extras === "both") assert.equal(difference(p.run(13, 0, true), alone, 13, n, p.outStride), undefined, `${what}: residual in place, ${operand}`);
      }
    }
    for (const operand of operands) assert.ok(bedOf(dtype, operand).guardsIntact, "wrote outside its buffers");
  });

  test(`the size of a piece changes no bit of linear_${dtype}, beyond the rows of one piece too`, () => {
    const c = { dtype, k: 65, n: 150, rows: 200, extras: "both" } as const;
    const p = new Problem(c, machine);
    const alone = Array.from({ length: 200 }, (_, r) => p.run(1, r).slice(0, c.n));
    for (const piecePanels of [1, 2, 3, 5, 1000]) for (const rows of [3, 97, 200]) {
      const pieces = new Problem({ ...c, piecePanels }, machine);
      assert.equal(difference(pieces.run(rows), alone, rows, c.n, p.outStride), undefined, `pieces of ${piecePanels} panels, ${rows} rows`);
    }
    assert.ok(p.bed.guardsIntact);
  });

  test(`embed_${dtype} looks up rows and scales them exactly, whatever a machine's dot product takes`, () => {
    const vocabulary = 37, tokens = Int32Array.of(36, 0, 15, 16, 31, 32, 7), scale = Math.fround(1.7);
    for (const operand of operands) for (const columns of depths) {
      const bed = bedOf(dtype, operand), packed = randomRows(dtype, vocabulary, columns, random(columns)), rowBytes = packedRowBytes(dtype, columns);
      const panels = new Uint8Array(quantizedBytes(dtype, vocabulary, columns)).fill(0xff);
      writePanels(panels, dtype, columns, 0, packed, operand);
      const stride = columns + 3, out = bed.placeEmpty(tokens.length * stride);
      bed.run(`embed_${dtype}`, quantizedEmbedArgs, {
        header: bed.place(Int32Array.of(-1, tokens.length - 1)), rowsWord: 1, out, outStride: 4 * stride, table: bed.place(panels, 4), tokens: bed.place(tokens), columns, scale,
      }, ["scale"]);
      const values = bed.floats(out, tokens.length * stride), bits = bed.words(out, tokens.length * stride);
      values.forEach((got, at) => {
        const row = Math.floor(at / stride), i = at % stride;
        if (row >= tokens.length - 1 || i >= columns) return assert.ok(Alone.untouched(bits[at]!), `${operand}, ${columns} columns: element ${i} of row ${row} was written`);
        if (i > 0) return;
        const want = dequantizeRow(packed.subarray(tokens[row]! * rowBytes, (tokens[row]! + 1) * rowBytes), dtype, columns).map((w) => Math.fround(w * scale));
        const wrong = want.findIndex((w, k) => values[at + k] !== w);
        assert.equal(wrong, -1, `${operand}, ${columns} columns: element ${wrong} of row ${row} is ${values[at + wrong]}, ${want[wrong]} wanted`);
      });
      assert.ok(bed.guardsIntact);
    }
  });

  test(`panels of ${dtype} are the same written at once, in pieces of rows, or by the kernel that packs whole ones`, () => {
    for (const operand of operands) for (const columns of [1, 33, 128]) {
      const rows = 50, packed = randomRows(dtype, rows, columns, random(columns)), rowBytes = packedRowBytes(dtype, columns), bytes = quantizedBytes(dtype, rows, columns);
      const atOnce = new Uint8Array(bytes), pieces = new Uint8Array(bytes);
      writePanels(atOnce, dtype, columns, 0, packed, operand);
      for (let row = 0, count = 1; row < rows; row += count++) writePanels(pieces, dtype, columns, row, packed.subarray(row * rowBytes, Math.min(rows, row + count) * rowBytes), operand);
      assert.deepEqual(pieces, atOnce, `${operand}, ${columns} columns`);

      const bed = bedOf(dtype, operand), panels = Math.floor(rows / panelRows), whole = panels * blocksOf(columns) * panelBlockBytes(dtype);
      const weight = bed.place(new Uint8Array(whole).fill(0xab));
      bed.run(`pack_${dtype}`, packArgs, { packed: bed.place(packed, 2), rowBytes, weight, panels, blocks: blocksOf(columns), refused: 0 });
      assert.equal(bed.argument(packArgs.refused), 0);
      assert.deepEqual(Uint8Array.from(bed.bytes(weight, whole)), atOnce.subarray(0, whole), `${operand}, ${columns} columns, packed by the kernel`);
      assert.ok(bed.guardsIntact);
    }
  });

  test(`a scale of ${dtype} that cannot be held is refused, by the kernel that packs too`, () => {
    const { hasMin } = quantizedFormats[dtype], columns = 64, bed = bedOf(dtype, machine);
    const tooLarge = [0x4800, 0xc800, 0x7c00, 0xfc00, 0x7e00]; // 8, -8, infinities, NaN
    const places = [[0, dtype === "int4" ? tooLarge : [...tooLarge, 0x8001, 0xbc00]], ...(hasMin ? [[2, tooLarge] as const] : [])] as const;
    for (const [place, refused] of places) for (const f16 of refused) {
      const packed = randomRows(dtype, panelRows, columns, random(3)), view = new DataView(packed.buffer);
      view.setUint16(5 * packedRowBytes(dtype, columns) + quantizedFormats[dtype].blockBytes + place, f16, true);
      assert.throws(() => writePanels(new Uint8Array(quantizedBytes(dtype, panelRows, columns)), dtype, columns, 0, packed, machine), { name: "UsageError", message: /has the scale or minimum .*--quantization none/ });
      bed.run(`pack_${dtype}`, packArgs, {
        packed: bed.place(packed), rowBytes: packedRowBytes(dtype, columns), weight: bed.place(new Uint8Array(quantizedBytes(dtype, panelRows, columns))), panels: 1, blocks: 2, refused: 0,
      });
      assert.equal(bed.argument(packArgs.refused), 0x10000 | f16);
    }
  });
}
