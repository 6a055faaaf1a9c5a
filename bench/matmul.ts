/**
 * What `linear` reaches on one thread: a CSV row per case on standard output. `node bench/matmul.ts`, under 5 seconds.
 *
 * Weight bytes per second say how near decode is to memory, multiply-adds (two operations each) how near prefill is to the
 * core. The best of many runs: the machine may be busy.
 */
import { Alone } from "../src/backend/wasm/alone.ts";
import { Module } from "../src/backend/wasm/assembler.ts";
import { linear, linearArgs, linearPieceColumns } from "../src/backend/wasm/matmul.ts";
import { bytesPerWeight } from "../src/backend/wasm/rows.ts";

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
    for (const [name, rows] of [["decode", 1], ["decode of 2", 2], ["decode of 8", 8], ["prefill", most]] as const) {
      bed.words(header, 1)[0] = rows;
      let best = Infinity;
      const start = performance.now();
      for (let runs = 0; runs < 20 || performance.now() - start < secondsPerCase * 1000; runs++) {
        const before = performance.now();
        bed.run(`linear_${dtype}`, linearArgs, args);
        best = Math.min(best, performance.now() - before);
      }
      const perSecond = 1e-6 / best;
      console.log([name, dtype, rows, k, n, (best * 1000).toFixed(1), (n * k * bytesPerWeight[dtype] * perSecond).toFixed(1), (2 * rows * n * k * perSecond).toFixed(1), process.version].join());
    }
  }
}
