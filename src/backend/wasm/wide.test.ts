import assert from "node:assert/strict";
import { test } from "node:test";
import { compileWide } from "#wasm-compile";
import { quantizedFormats, type QuantizedDType } from "../quantized.ts";
import { Module } from "./assembler.ts";
import { opsModule } from "./ops.ts";
import { type DotOperand } from "./panels.ts";
import { probeDot, quantizedModule } from "./quantized.ts";
import { wideBytes } from "./wide.ts";

const empty = new Module();
empty.func("nothing", {}, "none", () => []);
const skip = compileWide(empty.bytes(), () => {}) ? false : "this runtime compiles no wider vectors";
const machine = probeDot();
/** What only another kind of machine computes right. */
const other: DotOperand = machine === "signed8" ? "unsigned8" : "signed8";

const isPrefix = (a: Uint8Array, b: Uint8Array): boolean => a.every((byte, i) => byte === b[i]);

for (const dtype of Object.keys(quantizedFormats) as QuantizedDType[]) {
  test(`kernels of ${dtype} that compute right keep their bytes, and every delivery gets the same`, { skip }, () => {
    const bytes = quantizedModule(dtype, machine).bytes();
    assert.equal(wideBytes(dtype, machine, bytes), bytes);
    assert.equal(wideBytes(dtype, machine, quantizedModule(dtype, machine).bytes()), bytes);
    const apart = quantizedModule(dtype, machine).bytes(["weights"]);
    assert.equal(wideBytes(dtype, machine, apart), apart, "weights in another memory");
  });
}

for (const dtype of ["int8", "uint8"] as const) {
  test(`kernels of ${dtype} that compute wrong as they were compiled are delivered as other bytes, which mean the same`, { skip }, () => {
    const bytes = quantizedModule(dtype, other).bytes();
    const replaced = wideBytes(dtype, machine, bytes);
    assert.ok(replaced.length > bytes.length && isPrefix(bytes, replaced));
    const exports = (of: Uint8Array<ArrayBuffer>): unknown => WebAssembly.Module.exports(new WebAssembly.Module(of));
    assert.deepEqual(exports(replaced), exports(bytes));
    assert.equal(wideBytes(dtype, machine, bytes), replaced, "the verdict stays");
  });
}

test("what somebody compiles meanwhile does not end the process", { skip }, () => {
  const { result } = compileWide(empty.bytes(), () => new WebAssembly.Module(opsModule().bytes()))!;
  assert.ok(WebAssembly.Module.exports(result).length > 0);
});
