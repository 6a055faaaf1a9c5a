/**
 * Walking a row of logits: by fours from wherever it begins to wherever it ends, its largest, and its order as integers.
 *
 * Positions in a row are byte offsets. Knows no choices.
 */
import { block, branchIf, call, constant, f32, f32x4, forRange, i32, i32x4, leave, loop, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";

/** Larger for larger logits, as unsigned numbers; the zeros are equal. */
export const keyOf = (local: MakeLocal, x: Node): Node => {
  const bits = local("i32", "bits");
  return i32.xor(bits.tee(i32.reinterpret_f32(f32.add(x, 0))), i32.or(i32.shr_s(bits, 31), -0x80000000));
};
/** The same of four logits; `bits` is free to use. */
export const keysOf = (x: Operand, bits: Local): Node => v128.xor(bits.tee(f32x4.add(x, splat.f32(0))), v128.or(i32x4.shr_s(bits, 31), splat.i32(-0x80000000)));
/** The logit of a key. */
export const logitOf = (key: Local): Node => f32.reinterpret_i32(i32.xor(key, i32.or(i32.xor(i32.shr_s(key, 31), -1), -0x80000000)));

export class LogitRows {
  readonly #fourOf: Func;
  /** (row, bytes): the offset of the largest logit, the first of equal ones; -1 where the row is no distribution. */
  readonly largest: Func;
  /** (row, bytes, logit, n): the offset of the n-th logit, from 1, that equals it; there must be so many. */
  readonly nth: Func;

  constructor(m: Module) {
    this.#fourOf = addFourOf(m);
    this.nth = this.#addNth(m);
    this.largest = this.#addLargest(m);
  }

  /** `body` for the logits at offsets from `from` up to `to`: `wide` vectors at once, and what is left by ones. What is behind the end is -Infinity. */
  over(local: MakeLocal, row: Local, from: Operand, to: Operand, wide: number, body: (x: readonly Local[], i: Local) => readonly Node[]): Node[] {
    const i = local("i32", "i"), end = local("i32", "end"), whole = local("i32", "whole"), x = Array.from({ length: wide }, (_, j) => local("v128", `x${j}`));
    return [
      i.set(from),
      end.set(to),
      whole.set(i32.add(i, i32.and(i32.sub(end, i), -16 * wide))),
      forRange(i, i, whole, 16 * wide, [...x.map((xj, j) => xj.set(v128.load(i32.add(row, i), 16 * j))), ...body(x, i)]),
      forRange(i, whole, end, 16, [x[0]!.set(call(this.#fourOf, i32.add(row, i), i32.sub(end, i))), ...body(x.slice(0, 1), i)]),
    ];
  }

  #addLargest(m: Module): Func {
    return m.func("largestLogit", { row: "i32", bytes: "i32" }, "i32", ({ row, bytes }, local) => {
      const most = [0, 1, 2, 3].map((j) => local("v128", `most${j}`)), finite = local("v128", "finite"), best = local("f32", "best");
      const lane = (i: number): Node => f32x4.extract_lane(most[0]!, i);
      const larger = (a: Node, b: Node): Node => f32.max(a, b);
      return [
        ...most.map((v) => v.set(splat.f32(-Infinity))),
        finite.set(splat.i32(-1)),
        // What is no number is less than no number: no maximum takes it up.
        ...this.over(local, row, 0, bytes, 4, (x) => x.flatMap((v, j) => [most[j]!.set(f32x4.pmax(most[j]!, v)), finite.set(v128.and(finite, f32x4.lt(v, splat.f32(Infinity))))])),
        most[0]!.set(f32x4.pmax(f32x4.pmax(most[0]!, most[1]!), f32x4.pmax(most[2]!, most[3]!))),
        best.set(larger(larger(lane(0), lane(1)), larger(lane(2), lane(3)))),
        when(i32.or(i32.eqz(i32x4.all_true(finite)), f32.eq(best, -Infinity)), [leave(constant("i32", -1))]),
        call(this.nth, row, bytes, best, 1),
      ];
    }, { internal: true });
  }

  #addNth(m: Module): Func {
    return m.func("nthEqual", { row: "i32", bytes: "i32", logit: "f32", n: "i32" }, "i32", ({ row, bytes, logit, n }, local) => {
      const at = local("i32", "at"), count = local("i32", "count"), wanted = local("v128", "wanted");
      const equal = (v: Local): Node => i32.popcnt(i32x4.bitmask(f32x4.eq(v, wanted)));
      return [
        wanted.set(f32x4.splat(logit)),
        block("among_these", (found) => this.over(local, row, 0, bytes, 4, (x, i) => [
          at.set(i),
          count.set(x.map(equal).reduce((a, b) => i32.add(a, b))),
          branchIf(found, i32.ge_s(count, n)),
          n.set(i32.sub(n, count)),
        ])),
        at.set(i32.sub(at, 4)),
        loop("next", (next) => [
          at.set(i32.add(at, 4)),
          n.set(i32.sub(n, f32.eq(f32.load(i32.add(row, at)), logit))),
          branchIf(next, n),
        ]),
        at.get,
      ];
    }, { internal: true });
  }
}

/** Adds `fourOf(address, left)`: four logits of a row that has `left` bytes more; what is not there is -Infinity. */
function addFourOf(m: Module): Func {
  return m.func("fourOf", { address: "i32", left: "i32" }, "v128", ({ address, left }, local) => {
    const x = local("v128", "x");
    return [
      x.set(splat.f32(-Infinity)),
      when(i32.ge_u(left, 16), [x.set(v128.load(address))], [0, 1, 2].map((lane) =>
        when(i32.gt_u(left, 4 * lane), [x.set(v128.load32_lane(i32.add(address, 4 * lane), x, lane))]))),
      x.get,
    ];
  }, { internal: true });
}
