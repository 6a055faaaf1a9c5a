import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stream } from "../core/random.ts";
import { binary, constant, type Expr, index, load, select, uniform, unary } from "./expr.ts";
import { randomCaptures, randomExpr } from "./generate.ts";
import { evaluator } from "./interpret.ts";
import { print } from "./print.ts";
import { analyse, type Box, verdict } from "./range.ts";
import { simplify } from "./simplify.ts";

const q = index("q"), kv = index("kv"), n = uniform("i32", "n");
const int = (x: number): Expr => constant("i32", x);
const noCaptures = { uniforms: {}, tables: {} };

test("the range of a random program holds every value that the interpreter gives in the box", () => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 0, max: 6 }), fc.constantFrom("i32" as const, "f32" as const, "bool" as const), fc.boolean(), (seed, depth, type, simple) => {
    const random = stream(seed);
    const below = (x: number): number => Math.floor(random() * x);
    const made = randomExpr(random, type, depth, { score: false });
    const e = simple ? simplify(made) : made;
    const captures = randomCaptures(random);
    const analysis = analyse(e).bind(captures);
    const value = evaluator(e);
    for (let i = 0; i < 4; i++) {
      const span = (from: number, width: number): readonly [number, number] => [from, from + below(width)];
      const box: Box = { b: span(below(3), 2), h: span(below(3), 2), q: span(below(60), 6), kv: span(below(60), 6) };
      const range = analysis.range(box);
      for (let b = box.b[0]; b <= box.b[1]; b++) for (let h = box.h[0]; h <= box.h[1]; h++) for (let y = box.q[0]; y <= box.q[1]; y++) for (let x = box.kv[0]; x <= box.kv[1]; x++) {
        const is = value({ b, h, q: y, kv: x, score: 0, ...captures });
        const inside = Number.isNaN(is) ? range.nan : is >= range.lo && is <= range.hi;
        assert.ok(inside, `${print(e)} is ${is} at b ${b} h ${h} q ${y} kv ${x}, outside ${JSON.stringify(range)} of ${JSON.stringify(box)} with ${JSON.stringify(captures.uniforms)}`);
      }
    }
  }), { numRuns: process.env["TESSERA_LONG"] ? 10_000 : 700 });
});

test("far from zero too, where integers wrap, ranges stay sound", () => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 1, max: 4 }), (seed, depth) => {
    const random = stream(seed);
    const e = randomExpr(random, "i32", depth, { score: false });
    const captures = randomCaptures(random);
    const q0 = 2 ** 31 - 1 - Math.floor(random() * 3) - Math.floor(random() * 2) * 2 ** 30, kv0 = Math.floor(random() * 2 ** 31);
    const box: Box = { b: [0, 0], h: [0, 0], q: [q0, Math.min(q0 + 2, 2 ** 31 - 1)], kv: [kv0, Math.min(kv0 + 2, 2 ** 31 - 1)] };
    const range = analyse(e).bind(captures).range(box);
    const value = evaluator(e);
    for (let y = box.q[0]; y <= box.q[1]; y++) for (let x = box.kv[0]; x <= box.kv[1]; x++) {
      const is = value({ b: 0, h: 0, q: y, kv: x, score: 0, ...captures });
      assert.ok(is >= range.lo && is <= range.hi, `${print(e)} is ${is} at q ${y} kv ${x}, outside ${JSON.stringify(range)}`);
    }
  }), { numRuns: process.env["TESSERA_LONG"] ? 10_000 : 400 });
});

test("what q and kv have in common cancels: q - (q - kv) is kv", () => {
  const e = binary("ge", binary("sub", q, binary("sub", q, kv)), kv);
  assert.equal(analyse(e).bind(noCaptures).classify(0, 0, 0, 0, 0, 1000, 0, 1000), verdict.always);
});

test("x modulo n keeps its line inside one period", () => {
  const within = binary("ge", binary("floorMod", q, int(128)), binary("floorMod", kv, int(128)));
  const a = analyse(within).bind(noCaptures);
  assert.equal(a.classify(0, 0, 0, 0, 192, 255, 128, 191), verdict.always);
  assert.equal(a.classify(0, 0, 0, 0, 128, 191, 192, 255), verdict.never);
  assert.equal(a.classify(0, 0, 0, 0, 128, 191, 128, 191), verdict.sometimes);
});

test("bit operations know the bits that a block has in common", () => {
  // Morton order: x is every second bit. In an aligned block of 16 the tile is fixed.
  const e = binary("bitAnd", binary("shr", q, int(1)), int(0x5555));
  const range = analyse(e).bind(noCaptures).range({ b: [0, 0], h: [0, 0], q: [0b1100000, 0b1101111], kv: [0, 0] });
  assert.deepEqual(range, { lo: 0b10000, hi: 0b10101, nan: false });
});

test("documents in order, and out of order, classify by the least and greatest of the stretch", () => {
  const same = binary("eq", load("i32", "t", [q]), load("i32", "t", [kv]));
  const classify = (data: Int32Array, ...at: readonly [number, number, number, number]): number =>
    analyse(same).bind({ uniforms: {}, tables: { t: { data, shape: [data.length] } } }).classify(0, 0, 0, 0, ...at);
  const sorted = Int32Array.from({ length: 4096 }, (_, i) => Math.floor(i / 1000));
  assert.equal(classify(sorted, 0, 999, 0, 999), verdict.always);
  assert.equal(classify(sorted, 0, 999, 1000, 4095), verdict.never);
  assert.equal(classify(sorted, 0, 1000, 0, 10), verdict.sometimes);
  const shuffled = Int32Array.from({ length: 4096 }, (_, i) => [3, 7, 5, 1, 9][Math.floor(i / 1000)]!);
  assert.equal(classify(shuffled, 2000, 2999, 2000, 2999), verdict.always);
  assert.equal(classify(shuffled, 3000, 3999, 0, 2999), verdict.never);
});

test("a table changed in place is seen at the next bind", () => {
  const data = new Int32Array(256);
  const captures = { uniforms: {}, tables: { t: { data, shape: [256] } } };
  const a = analyse(binary("lt", load("i32", "t", [q]), int(1))).bind(captures);
  assert.equal(a.classify(0, 0, 0, 0, 0, 255, 0, 0), verdict.always);
  data.fill(1);
  assert.equal(a.bind(captures).classify(0, 0, 0, 0, 0, 255, 0, 0), verdict.never);
  data[77] = 0;
  assert.equal(a.bind(captures).classify(0, 0, 0, 0, 0, 255, 0, 0), verdict.sometimes);
});

test("an index that may leave the table proves nothing, so that the kernel meets it and says so", () => {
  const data = new Int32Array(100);
  const a = analyse(binary("lt", load("i32", "t", [q]), int(1))).bind({ uniforms: {}, tables: { t: { data, shape: [100] } } });
  assert.equal(a.classify(0, 0, 0, 0, 0, 99, 0, 0), verdict.always);
  assert.equal(a.classify(0, 0, 0, 0, 0, 100, 0, 0), verdict.sometimes);
});

test("NaN decides no comparison", () => {
  const root = unary("sqrt", unary("toF32", binary("sub", q, kv)));
  const a = analyse(select(binary("ge", root, constant("f32", 0)), constant("bool", 1), constant("bool", 0))).bind(noCaptures);
  assert.equal(a.classify(0, 0, 0, 0, 10, 20, 0, 9), verdict.always);
  assert.equal(a.classify(0, 0, 0, 0, 10, 20, 0, 30), verdict.sometimes);
  assert.equal(a.classify(0, 0, 0, 0, 0, 5, 10, 30), verdict.sometimes);
});

test("uniforms are read at bind", () => {
  const a = analyse(binary("lt", binary("sub", q, kv), n));
  assert.equal(a.bind({ uniforms: { n: 8 }, tables: {} }).classify(0, 0, 0, 0, 10, 12, 5, 9), verdict.always);
  assert.equal(a.bind({ uniforms: { n: 1 }, tables: {} }).classify(0, 0, 0, 0, 10, 12, 5, 9), verdict.never);
  assert.throws(() => a.bind(noCaptures), /'n' has no value/);
});

test("the tape that classifies boxes says of random masks what the plain steps say", () => {
  const seen = new Set<number>();
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 1, max: 7 }), fc.boolean(), (seed, depth, simple) => {
    const random = stream(seed);
    const below = (x: number): number => Math.floor(random() * x);
    const made = randomExpr(random, "bool", depth, { score: false });
    const e = simple ? simplify(made) : made;
    const captures = randomCaptures(random);
    const analysis = analyse(e).bind(captures);
    for (let i = 0; i < 4; i++) {
      const span = (from: number, width: number): readonly [number, number] => [from, from + below(width)];
      const box: Box = { b: span(below(3), 2), h: span(below(3), 2), q: span(below(60), 1 + below(40)), kv: span(below(60), 1 + below(40)) };
      const { lo, hi } = analysis.range(box);
      const is = analysis.classify(...box.b, ...box.h, ...box.q, ...box.kv);
      assert.equal(is, lo === 1 ? verdict.always : hi === 0 ? verdict.never : verdict.sometimes, `${print(e)} in ${JSON.stringify(box)} with ${JSON.stringify(captures.uniforms)}`);
      seen.add(is);
    }
  }), { numRuns: process.env["TESSERA_LONG"] ? 10_000 : 1000 });
  assert.equal(seen.size, 3);
});
