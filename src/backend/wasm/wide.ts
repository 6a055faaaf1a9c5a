/**
 * The kernels of a quantised dtype as code with wide vectors, where V8 makes such (compile-wide.node.ts) and makes them right: each is
 * checked on every shape of tile before it is used, and what fails is compiled the ordinary way.
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
  const module = compileWide(bytes);
  if (!module) return bytes;
  const right = isRight(module, dtype, operand);
  // Other bytes, by an empty custom section, are other code.
  const loaded = right ? bytes : Uint8Array.from([...bytes, 0, 2, 1, 0x6e]);
  kept.set(key, { bytes: loaded, module });
  return loaded;
}

const checkRows = 6, checkColumns = 2 * blockElements;
/** A wide tile, a single panel, and a part of one. */
const checkOutputs = 64 + 16 + 5;

/** Whether `linear_<dtype>` of a compiled module gives the exact results for 1 to 6 rows. */
function isRight(module: WebAssembly.Module, dtype: QuantizedDType, operand: DotOperand): boolean {
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 65536, shared: true });
  const names = WebAssembly.Module.imports(module).map(({ name }) => [name, memory]);
  const run = new WebAssembly.Instance(module, { env: Object.fromEntries(names) }).exports[`linear_${dtype}`] as (args: number, thread: number) => void;
  const random = codesOf(1);

  const rowBytes = packedRowBytes(dtype, checkColumns), { blockBytes, hasMin } = quantizedFormats[dtype];
  const packed = Uint8Array.from({ length: checkOutputs * rowBytes }, random);
  const view = new DataView(packed.buffer);
  for (let at = 0, i = 0; at < packed.length; at += blockBytes, i++) {
    view.setUint16(at, 0x2c00 + 0x400 * (i % 3), true); // 2^-4, 2^-3, 2^-2
    if (hasMin) view.setUint16(at + 2, 0xbc00 + 0x400 * (i % 2), true); // -1, -2
  }
  const x = Array.from({ length: checkRows }, (_, r) => quantizeActivations(Float32Array.from({ length: checkColumns }, (_, k) => (k % blockElements === 0 ? 127 : (random() % 255) - 127) * 2 ** (r % 2))));

  const at = { args: 4096, header: 4352, weight: 8192, x: 65536, out: 131072 };
  const bytes = new Uint8Array(memory.buffer), words = new Int32Array(memory.buffer), floats = new Float32Array(memory.buffer);
  writePanels(bytes.subarray(at.weight, at.weight + quantizedBytes(dtype, checkOutputs, checkColumns)), dtype, checkColumns, 0, packed, operand);
  x.forEach((row, r) => bytes.set(row, at.x + r * row.length));
  const blocks = blocksOf(checkColumns);
  const args = {
    header: at.header, rowsWord: 0, out: at.out, outStride: 4 * checkOutputs, x: at.x, xStride: x[0]!.length, weight: at.weight, n: checkOutputs, blocks,
    bias: 0, residual: 0, residualStride: 0, piecePanels: piecePanels(dtype, blocks),
  };
  for (const [name, word] of Object.entries(quantizedLinearArgs)) words[at.args / 4 + word] = args[name as keyof typeof args];

  const weights = Array.from({ length: checkOutputs }, (_, n) => dequantizeRow(packed.subarray(n * rowBytes, (n + 1) * rowBytes), dtype, checkColumns));
  const expected = x.map((row) => {
    const values = activationValues(row, checkColumns);
    return weights.map((w) => values.reduce((sum, value, k) => sum + value * w[k]!, 0));
  });
  for (let rows = 1; rows <= checkRows; rows++) {
    words[at.header / 4] = rows;
    words.fill(0, 0, 1024);
    floats.fill(NaN, at.out / 4, at.out / 4 + checkRows * checkOutputs);
    run(at.args, 0);
    for (let i = 0; i < rows * checkOutputs; i++) if (floats[at.out / 4 + i] !== expected[Math.floor(i / checkOutputs)]![i % checkOutputs]) return false;
  }
  return true;
}

/** Bytes by a linear congruential generator. */
function codesOf(seed: number): () => number {
  let state = seed;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
}
