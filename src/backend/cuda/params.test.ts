/** Parameter structs are laid out as C does. (compiler.test.ts asks a C++ compiler.) */
import assert from "node:assert/strict";
import { test } from "node:test";
import { maxParamBytes, Params } from "./params.ts";

test("members stand where C puts them, and the end is padded", () => {
  const view = (p: Params): DataView => new DataView(p.bytes().buffer);
  const a = view(new Params().i32(-5).ptr(0x7fff_1234_5678).f32(1.5).u32(0xffff_ffff).i32(7).i64(-(2 ** 40)).i32(9));
  assert.equal(a.byteLength, 48);
  assert.equal(a.getInt32(0, true), -5);
  assert.equal(a.getBigUint64(8, true), 0x7fff_1234_5678n);
  assert.equal(a.getFloat32(16, true), 1.5);
  assert.equal(a.getUint32(20, true), 0xffff_ffff);
  assert.equal(a.getInt32(24, true), 7);
  assert.equal(a.getBigInt64(32, true), -(2n ** 40n));
  assert.equal(a.getInt32(40, true), 9);
  assert.equal(a.getInt32(44, true), 0);
  assert.equal(new Params().i32(1).bytes().length, 8);
  assert.equal(new Params().bytes().length, 0);
});

test("a member of 64 bytes' alignment aligns the struct", () => {
  const bytes = new Params(8).ptr(1).raw(new Uint8Array(128).fill(3), 64).i32(1).bytes();
  assert.equal(bytes.length, 256);
  assert.deepEqual([bytes[63], bytes[64], bytes[191], bytes[192]], [0, 3, 3, 1]);
});

test("it grows, and copies what it hands out", () => {
  const p = new Params(1);
  for (let i = 0; i < 500; i++) p.i32(i);
  const words = new Int32Array(p.bytes().buffer);
  assert.ok(words.every((x, i) => x === i));
  words.fill(0);
  assert.equal(new Int32Array(p.bytes().buffer)[7], 7);
});

test("what does not fit its type is refused", () => {
  for (const wrong of [
    () => new Params().ptr(1.5), () => new Params().ptr(-8), () => new Params().ptr(2 ** 60), () => new Params().i32(2 ** 31), () => new Params().u32(-1), () => new Params().i64(0.5),
    () => new Params().raw(new Uint8Array(maxParamBytes + 1), 8),
  ]) assert.throws(wrong, /invariant/);
});
