/**
 * Matrix products of a quantised dtype as code with wide vectors, where V8 makes such (compile-wide.node.ts) and makes it right: every shape
 * of tile is checked before it is used, and what fails is compiled the ordinary way. So are the dtype's other kernels, which nothing checks.
 *
 * Integer sums and power-of-two scales have exact results, so the check is for equality.
 */
import { compileWide } from "#wasm-compile";
import { activationValues, blockElements, blocksOf, dequantizeRow, packedRowBytes, quantizeActivations, quantizedBytes, quantizedFormats, type QuantizedDType } from "../quantized.ts";
import { type DotOperand, writePanels } from "./panels.ts";
import { piecePanels, quantizedLinearArgs } from "./quantized.ts";

/** Compiled modules stay referenced: as long as they are, the same bytes mean the same code on every thread of the process. */
const kept = new Map<string, { readonly bytes: Uint8Array<ArrayBuffer>; readonly module: WebAssembly.Module }>();

/** The bytes to load for a module of quantised kernels, which is compiled wide if that passed its check. */
export function wideBytes(dtype: QuantizedDType, operand: DotOperand, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const key = `${dtype} ${operand} ${bytes.length}`;
  const before = kept.get(key);
  if (before) return before.bytes;
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 65536, shared: true });
  const compiled = compileWide(bytes, (module) => isRight(kernelsOf(module, memory), memory, dtype, operand), (module) => {
    new Int32Array(memory.buffer).fill(0); // no rows, no panels, no blocks
    for (const [name, kernel] of Object.entries(kernelsOf(module, memory))) if (name !== `linear_${dtype}`) kernel(argsAt, 0);
  });
  if (!compiled) return bytes;
  // Other bytes, by an empty custom section, are other code.
  const loaded = compiled.result ? bytes : Uint8Array.from([...bytes, 0, 2, 1, 0x6e]);
  kept.set(key, { bytes: loaded, module: compiled.module });
  return loaded;
}

type Kernels = Readonly<Record<string, (args: number, thread: number) => void>>;
/** All memories of the module are `memory`. */
function kernelsOf(module: WebAssembly.Module, memory: WebAssembly.Memory): Kernels {
  const names = WebAssembly.Module.imports(module).map(({ name }) => [name, memory]);
  return new WebAssembly.Instance(module, { env: Object.fromEntries(names) }).exports as Kernels;
}

const argsAt = 4096;
const checkRows = 6, checkColumns = 2 * blockElements;
/** A wide tile, a single panel, and a part of one. */
const checkOutputs = 64 + 16 + 5;

/** Whether `linear_<dtype>` gives the exact results for 1 to 6 rows, with and without bias and residual. */
function isRight(kernels: Kernels, memory: WebAssembly.Memory, dtype: QuantizedDType, operand: DotOperand): boolean {
  const run = kernels[`linear_${dtype}`]!;
  const random = codesOf(1);

  const rowBytes = packedRowBytes(dtype, checkColumns), { blockBytes, hasMin } = quantizedFormats[dtype];
  const packed = Uint8Array.from({ length: checkOutputs * rowBytes }, random);
  const view = new DataView(packed.buffer);
  for (let at = 0, i = 0; at < packed.length; at += blockBytes, i++) {
    view.setUint16(at, 0x2c00 + 0x400 * (i % 3), true); // 2^-4, 2^-3, 2^-2
    if (hasMin) view.setUint16(at + 2, 0xbc00 + 0x400 * (i % 2), true); // -1, -2
  }
  const x = Array.from({ length: checkRows }, (_, r) => quantizeActivations(Float32Array.from({ length: checkColumns }, (_, k) => (k % blockElements === 0 ? 127 : (random() % 255) - 127) * 2 ** (r % 2))));

  const at = { args: argsAt, header: 4352, weight: 8192, x: 65536, bias: 98304, residual: 102400, out: 131072 };
  const bytes = new Uint8Array(memory.buffer), words = new Int32Array(memory.buffer), floats = new Float32Array(memory.buffer);
  writePanels(bytes.subarray(at.weight, at.weight + quantizedBytes(dtype, checkOutputs, checkColumns)), dtype, checkColumns, 0, packed, operand);
  x.forEach((row, r) => bytes.set(row, at.x + r * row.length));
  const blocks = blocksOf(checkColumns);
  const args = {
    header: at.header, rowsWord: 0, out: at.out, outStride: 4 * checkOutputs, x: at.x, xStride: x[0]!.length, weight: at.weight, n: checkOutputs, blocks,
    bias: 0, residual: 0, residualStride: 4 * checkOutputs, piecePanels: piecePanels(dtype, blocks),
  };
  const bias = Float32Array.from({ length: checkOutputs }, random), residual = Float32Array.from({ length: checkRows * checkOutputs }, random);
  floats.set(bias, at.bias / 4);
  floats.set(residual, at.residual / 4);

  const weights = Array.from({ length: checkOutputs }, (_, n) => dequantizeRow(packed.subarray(n * rowBytes, (n + 1) * rowBytes), dtype, checkColumns));
  const expected = x.map((row) => {
    const values = activationValues(row, checkColumns);
    return weights.map((w) => values.reduce((sum, value, k) => sum + value * w[k]!, 0));
  });
  for (const extras of [false, true]) {
    const given = extras ? { ...args, bias: at.bias, residual: at.residual } : args;
    for (const [name, word] of Object.entries(quantizedLinearArgs)) words[at.args / 4 + word] = given[name as keyof typeof args];
    for (let rows = 1; rows <= checkRows; rows++) {
      words[at.header / 4] = rows;
      words.fill(0, 0, 1024);
      floats.fill(NaN, at.out / 4, at.out / 4 + checkRows * checkOutputs);
      run(at.args, 0);
      for (let i = 0; i < rows * checkOutputs; i++) {
        const column = i % checkOutputs, added = extras ? bias[column]! + residual[i]! : 0;
        if (floats[at.out / 4 + i] !== expected[(i - column) / checkOutputs]![column]! + added) return false;
      }
    }
  }
  return true;
}

/** Bytes by a linear congruential generator. */
function codesOf(seed: number): () => number {
  let state = seed;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
}
