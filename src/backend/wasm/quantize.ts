/**
 * Rows of f32 rounded to blocks of int8 (backend/quantized.ts says how): what quantised matrices are multiplied with.
 *
 * The kernels that make such rows (quantize here, rmsNorm and gatedActivation in elementwise.ts) hand over how an element is computed,
 * so that a row is rounded while it is made. Knows no ops and no buffers.
 */
import { activationBlock, blockElements, largestF32 } from "../quantized.ts";
import { constant, f32, f32x4, forRange, i16x8, i32, i32x4, i8x16, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import { argument, kernel, type MakeLocal } from "./kernel.ts";
import { four, type Lanes, one, overStretches, rowAddress, rowWords } from "./rows.ts";

const vectors = blockElements / 4;
/** Bytes of f32 that one block rounds. */
const sourceBytes = 4 * blockElements;

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/**
 * Writes the elements at byte offsets [from, to) of f32 as blocks to the row at `out`. `from` is that of a whole block; `to` too, unless the
 * row ends there. `value` computes the elements at an offset; where the last block is not full it is asked twice for each.
 */
export function quantizeColumns(local: MakeLocal, out: Operand, from: Operand, to: Local, value: (lanes: Lanes, i: Local) => Node): Node[] {
  const i = local("i32", "i"), block = local("i32", "block"), whole = local("i32", "wholeBlocks");
  const v = range(vectors).map((j) => local("v128", `v${j}`)), largest = local("v128", "largest"), inverse = local("v128", "inverse"), sum = local("v128", "sum");
  const at = local("i32", "at"), code = local("i32", "code"), total = local("i32", "total");
  const start = typeof from === "number" ? constant("i32", from) : from;

  const swapped = (x: Operand, order: readonly [number, number, number, number]): Node => i8x16.shuffle(x, x, order.flatMap((lane) => range(4).map((byte) => 4 * lane + byte)));
  /** All lanes the same: `op` over the four. */
  const acrossLanes = (x: Local, op: (a: Operand, b: Operand) => Node): Node[] => [x.set(op(x, swapped(x, [2, 3, 0, 1]))), x.set(op(x, swapped(x, [1, 0, 3, 2])))];
  const rounded = (x: Operand): Node => i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(x, inverse)));
  /** What stands behind the codes, the largest magnitude and the codes' sum being in lane 0. */
  const statistics = (): Node[] => [
    largest.set(f32x4.div(largest, splat.f32(127))),
    total.set(i32x4.extract_lane(sum, 0)),
    v128.store32_lane(block, largest, 0, activationBlock.scale),
    i32.store(block, i32.mul(total, -128), activationBlock.offset),
    f32.store(block, f32.mul(f32x4.extract_lane(largest, 0), f32.convert_i32_s(total)), activationBlock.sum),
  ];
  const setInverse = inverse.set(f32x4.pmin(f32x4.div(splat.f32(127), largest), splat.f32(largestF32)));
  return [
    whole.set(i32.add(start, i32.and(i32.sub(to, start), -sourceBytes))),
    block.set(i32.add(out, i32.mul(i32.shr_u(start, 7), activationBlock.bytes))),
    forRange(i, start, whole, sourceBytes, [
      at.set(i),
      ...v.flatMap((x) => [x.set(value(four, at)), at.set(i32.add(at, 16))]),
      largest.set(f32x4.abs(v[0]!)),
      ...v.slice(1).map((x) => largest.set(f32x4.max(largest, f32x4.abs(x)))),
      ...acrossLanes(largest, f32x4.max),
      setInverse,
      ...v.map((x) => x.set(rounded(x))),
      sum.set(v.slice(1).reduce<Node>((a, x) => i32x4.add(a, x), v[0]!.get)),
      ...acrossLanes(sum, i32x4.add),
      ...[0, 4].map((j) => v128.store(block, i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(v[j]!, v[j + 1]!), i16x8.narrow_i32x4_s(v[j + 2]!, v[j + 3]!)), 4 * j)),
      ...statistics(),
      block.set(i32.add(block, activationBlock.bytes)),
    ]),
    when(i32.lt_u(whole, to), [
      largest.set(splat.f32(0)),
      forRange(i, whole, to, 4, [largest.set(f32x4.max(largest, f32x4.abs(value(one, i))))]),
      setInverse,
      v128.store(block, splat.i32(0)),
      v128.store(block, splat.i32(0), 16),
      total.set(0),
      forRange(i, whole, to, 4, [
        code.set(i32x4.extract_lane(rounded(value(one, i)), 0)),
        total.set(i32.add(total, code)),
        i32.store8(i32.add(block, i32.shr_u(i32.sub(i, whole), 2)), code),
      ]),
      sum.set(i32x4.splat(total)),
      ...statistics(),
    ]),
  ];
}

/** out[r, :] = x[r, :] as int8 blocks. out: bytes, x: f32; outStride in bytes, xStride in elements. */
export const quantizeArgs = { ...rowWords, out: 2, outStride: 3, x: 4, xStride: 5, columns: 6 } as const;

/** Adds `quantize`. */
export function quantize(m: Module): Func {
  return kernel(m, "quantize", (args, _thread, local) => {
    const out = local("i32", "out"), x = local("i32", "x");
    return overStretches(args, local, argument(args, quantizeArgs.columns), (row, from, to) => [
      out.set(i32.add(argument(args, quantizeArgs.out), i32.mul(row, argument(args, quantizeArgs.outStride)))),
      x.set(rowAddress(argument(args, quantizeArgs.x), row, argument(args, quantizeArgs.xStride))),
      ...quantizeColumns(local, out, from, to, (lanes, i) => lanes.load(x, i)),
    ]);
  });
}
