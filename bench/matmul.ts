/**
 * What `linear` reaches on one thread: a CSV row per case on standard output. `node bench/matmul.ts`, under 20 seconds.
 *
 * Weight bytes per second say how near decode is to memory, multiply-adds (two operations each) how near prefill is to the
 * core. The best of many runs: the machine may be busy. Quantised weights come twice: as code of 128 bits, and "wide" (wasm/wide.ts).
 */
import { Alone } from "../src/backend/wasm/alone.ts";
import { packedRowBytes, quantizeActivations, quantizedBytes, quantizedFormats, type QuantizedDType } from "../src/backend/quantized.ts";
import { Module } from "../src/backend/wasm/assembler.ts";
import { linear, linearArgs, linearPieceColumns } from "../src/backend/wasm/matmul.ts";
import { panelBlockBytes, writePanels } from "../src/backend/wasm/panels.ts";
import { piecePanels, probeDot, quantizedLinearArgs, quantizedModule } from "../src/backend/wasm/quantized.ts";
import { bytesPerWeight } from "../src/backend/wasm/rows.ts";
import { wideBytes } from "../src/backend/wasm/wide.ts";

const secondsPerCase = 0.15;
const most = 512;

console.log("case,dtype,rows,k,n,microseconds,weight GB/s,GFLOP/s,node");
for (const dtype of ["f32", "bf16"] as const) {
  const m = new Module();
  linear(m, dtype);
  for (const [k, n] of [[1024, 1024], [192, 768]] as const) {
    const bed = new Alone(m);
    const values = Float32Array.from({ length: n * k }, (_, i) => Math.sin(i));
    const weight = dtype === "f32" ? values : Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
    const header = bed.place(Int32Array.of(0));
    const args = {
      header, rowsWord: 0, out: bed.placeEmpty(most * n), outStride: n, x: bed.place(Float32Array.from({ length: most * k }, (_, i) => Math.cos(i))), xStride: k,
      weight: bed.place(weight), n, k, bias: 0, residual: 0, residualStride: 0, pieceColumns: linearPieceColumns(k, dtype),
    };
    measure(dtype, k, n, n * k * bytesPerWeight[dtype], (rows) => (bed.words(header, 1)[0] = rows), () => bed.run(`linear_${dtype}`, linearArgs, args));
  }
}

const operand = probeDot();
for (const dtype of Object.keys(quantizedFormats) as QuantizedDType[]) {
  for (const wide of [false, true]) {
    const m = quantizedModule(dtype, operand);
    // What is compiled once is that code for good: the ordinary one gets bytes of its own.
    if (!wide) m.func("ordinary", {}, "none", () => [], { internal: true });
    else if (wideBytes(dtype, operand, m.bytes()).length !== m.bytes().length) continue;
    for (const [k, n] of [[1024, 1024], [3072, 1024]] as const) {
      const bed = new Alone(m), blocks = k / 32;
      const packed = new Uint8Array(n * packedRowBytes(dtype, k)).fill(0x34); // scales of 0.26
      const panels = new Uint8Array(quantizedBytes(dtype, n, k));
      writePanels(panels, dtype, k, 0, packed, operand);
      const x = quantizeActivations(Float32Array.from({ length: k }, (_, i) => Math.cos(i)));
      const rowsOfX = new Uint8Array(most * x.length).map((_, i) => x[i % x.length]!);
      const header = bed.place(Int32Array.of(0));
      const args = {
        header, rowsWord: 0, out: bed.placeEmpty(most * n), outStride: 4 * n, x: bed.place(new Int32Array(rowsOfX.buffer)), xStride: x.length,
        weight: bed.place(new Int32Array(panels.buffer)), n, blocks, bias: 0, residual: 0, residualStride: 0, piecePanels: piecePanels(dtype, blocks),
      };
      measure(wide ? `${dtype} wide` : dtype, k, n, (n / 16) * blocks * panelBlockBytes(dtype), (rows) => (bed.words(header, 1)[0] = rows), () => bed.run(`linear_${dtype}`, quantizedLinearArgs, args));
    }
  }
}

/** Prints a row for each number of rows. */
function measure(dtype: string, k: number, n: number, weightBytes: number, setRows: (rows: number) => void, run: () => void): void {
  for (const [name, rows] of [["decode", 1], ["decode of 2", 2], ["decode of 8", 8], ["prefill", most]] as const) {
    setRows(rows);
    let best = Infinity;
    const start = performance.now();
    for (let runs = 0; runs < 20 || performance.now() - start < secondsPerCase * 1000; runs++) {
      const before = performance.now();
      run();
      best = Math.min(best, performance.now() - before);
    }
    const perSecond = 1e-6 / best;
    console.log([name, dtype, rows, k, n, (best * 1000).toFixed(1), (weightBytes * perSecond).toFixed(1), (2 * rows * n * k * perSecond).toFixed(1), process.version].join());
  }
}
