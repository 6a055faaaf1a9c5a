import assert from "node:assert/strict";
import { test } from "node:test";
import { f32x4, forRange, i32, i32x4, Module, splat, v128, when, leave, constant } from "./assembler.ts";

function instantiate(m: Module): Record<string, (...args: number[]) => number> & { memory: WebAssembly.Memory } {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory } });
  return Object.assign({ memory }, instance.exports) as never;
}

test("a function of locals, a loop and a condition runs", () => {
  const m = new Module();
  m.func("sumOfOdd", { n: "i32" }, "i32", ({ n }, local) => {
    const i = local("i32", "i"), sum = local("i32", "sum");
    return [forRange(i, 0, n, 1, [when(i32.and(i, 1), [sum.set(i32.add(sum, i))])]), sum.get];
  });
  const e = instantiate(m);
  assert.equal(e["sumOfOdd"]!(10), 25);
  assert.equal(e["sumOfOdd"]!(0), 0);
});

test("integer constants of every size survive their encoding", () => {
  for (const value of [0, 1, -1, 63, 64, -64, -65, 127, 128, 8191, 8192, 2 ** 31 - 1, -(2 ** 31), 0x12345678]) {
    const m = new Module();
    m.func("value", {}, "i32", () => [constant("i32", value)]);
    assert.equal(instantiate(m)["value"]!(), value);
  }
});

test("SIMD with memory offsets, lanes and relaxed multiply-add gives the lanes' values", () => {
  const m = new Module();
  m.func("run", { p: "i32" }, "none", ({ p }, local) => {
    const x = local("v128", "x");
    return [
      x.set(v128.load(p, 16)),
      v128.store(p, f32x4.relaxed_madd(x, splat.f32(2), splat.f32(1))),
      i32.store(p, i32x4.extract_lane(i32x4.trunc_sat_f32x4_s(x), 3), 32),
      v128.store32_lane(p, x, 2, 36),
    ];
  });
  const e = instantiate(m);
  const f = new Float32Array(e.memory.buffer), i = new Int32Array(e.memory.buffer);
  f.set([1, 2, 3, 4.5], 4);
  e["run"]!(0);
  assert.deepEqual([...f.subarray(0, 4)], [3, 5, 7, 10]);
  assert.equal(i[8], 4);
  assert.equal(f[9], 3);
});

test("an ill-typed instruction can not be built", () => {
  assert.throws(() => i32.add(splat.f32(1), 2), /i32.add: an operand is v128, i32 expected/);
});

test("the text of a module reads like code and is the same each time", () => {
  const build = (): string => {
    const m = new Module();
    m.func("clampToZero", { x: "i32" }, "i32", ({ x }) => [when(i32.lt_s(x, 0), [leave(constant("i32", 0))]), x.get]);
    return m.text();
  };
  assert.equal(build(), "func clampToZero(x: i32): i32 {\n  if i32.lt_s(x, 0) {\n    return(0)\n  }\n  x\n}\n");
  assert.equal(build(), build());
});

test("a load names its memory, which is the first one where it is not imported apart", () => {
  const m = new Module();
  const weights = m.memory("weights");
  m.func("sum", { p: "i32" }, "i32", ({ p }) => [i32.add(i32.add(i32.load(p, 4), i32.load(weights.at(p), 4)), i32x4.extract_lane(v128.load32_lane(weights.at(p), splat.i32(0), 2, 8), 2))]);
  m.func("write", { p: "i32" }, "none", ({ p }) => [i32.store(weights.at(i32.load(weights.at(p))), 9)]);
  const make = (): WebAssembly.Memory => new WebAssembly.Memory({ initial: 1, maximum: 2, shared: true });
  const memory = make(), other = make();
  new Int32Array(memory.buffer).set([0, 1, 2]);
  new Int32Array(other.buffer).set([64, 10, 20]);
  const run = (apart: readonly string[]): Record<string, (p: number) => number> =>
    new WebAssembly.Instance(new WebAssembly.Module(m.bytes(apart)), { env: { memory, weights: other } }).exports as never;
  assert.equal(run([])["sum"]!(0), 1 + 1 + 2);
  assert.equal(run(["weights"])["sum"]!(0), 1 + 10 + 20);
  run(["weights"])["write"]!(0);
  assert.equal(new Int32Array(other.buffer)[16], 9);
  assert.match(m.text(), /i32\.load\(weights\[p\], offset=4\)/);
  assert.throws(() => m.bytes(["keys"]), /memories keys; the module has weights/);
});

test("an address in another memory is no number", () => {
  const weights = new Module().memory("weights");
  assert.throws(() => i32.add(weights.at(constant("i32", 0)), 2), /i32.add: an address in weights/);
});
