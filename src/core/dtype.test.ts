import assert from "node:assert/strict";
import { test } from "node:test";
import { bytesPerElement, fromBf16, fromF16, fromFloat32, fromFp8, toBf16, toF16, toFloat32, toFp8, type DType } from "./dtype.ts";
import { stream } from "./random.ts";

/** The value in `all` nearest to x; between two, the one with the even code. */
function nearest(all: readonly (readonly [code: number, value: number])[], x: number): number {
  let best = all[0]!;
  for (const candidate of all) {
    const nearer = Math.abs(candidate[1] - x) - Math.abs(best[1] - x);
    if (nearer < 0 || (nearer === 0 && candidate[0] % 2 === 0)) best = candidate;
  }
  return best[1];
}

test("every bf16 and f16 comes back from the number it stands for", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const b = fromBf16(bits), h = fromF16(bits);
    if (Number.isNaN(b)) assert.ok(Number.isNaN(fromBf16(toBf16(b))));
    else assert.equal(toBf16(b), bits);
    if (Number.isNaN(h)) assert.ok(Number.isNaN(fromF16(toF16(h))));
    else assert.equal(toF16(h), bits);
  }
});

test("every fp8 comes back, and known codes have their values", () => {
  for (let bits = 0; bits < 256; bits++) {
    if ((bits & 0x7f) === 0x7f) assert.ok(Number.isNaN(fromFp8(bits)));
    else assert.equal(toFp8(fromFp8(bits)), bits);
  }
  assert.deepEqual([0x01, 0x08, 0x38, 0x3c, 0x7e, 0xfe].map(fromFp8), [2 ** -9, 2 ** -6, 1, 1.5, 448, -448]);
  assert.equal(fromFp8(toFp8(1e9)), 448);
});

test("rounding goes to the nearest, ties to even: f16 agrees with the platform's, fp8 with a search of all codes", () => {
  const random = stream(3);
  const codes = Array.from({ length: 127 }, (_, bits) => [bits, fromFp8(bits)] as const);
  const half = new Float16Array(1);
  for (let i = 0; i < 20_000; i++) {
    const x = Math.fround((random() - 0.5) * 2 ** Math.floor(random() * 60 - 40));
    half[0] = x;
    assert.equal(fromF16(toF16(x)), half[0], `f16 of ${x}`);
    if (i < 3000) assert.equal(fromFp8(toFp8(Math.abs(x))), nearest(codes, Math.min(448, Math.abs(x))), `fp8 of ${x}`);
  }
  assert.equal(fromBf16(toBf16(1 + 2 ** -8)), 1, "a tie goes to the even");
  assert.equal(fromBf16(toBf16(1 + 3 * 2 ** -8)), 1 + 2 ** -6);
  assert.equal(fromF16(toF16(65519)), 65504);
  assert.equal(fromF16(toF16(65520)), Infinity);
});

test("bytes of every dtype widen to the numbers they were made of", () => {
  for (const dtype of Object.keys(bytesPerElement) as DType[]) {
    const values = [0, 1, 2, 5, 96];
    const bytes = fromFloat32(values, dtype);
    assert.equal(bytes.length, values.length * bytesPerElement[dtype]);
    assert.deepEqual([...toFloat32(bytes, dtype)], values);
  }
});
