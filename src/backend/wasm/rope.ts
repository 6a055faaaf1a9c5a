/**
 * ropeAndCache: on the packed rows [q heads | k heads | v heads], in place: RMS norm of each q and k head where weights are given,
 * rotation by the token's position, then K and V to the cache at the token's slot.
 *
 * A piece of work is up to 8 heads of one token. A page has a stretch for each head, its tokens one behind the other. Knows no ops and no buffers.
 */
import type { KvCacheFormat } from "../backend.ts";
import { block, branch, call, f32, f32x4, forRange, i32, i8x16, v128, when, type Func, type Local, type Module, type Node } from "./assembler.ts";
import { argument, forEachClaimed, kernel } from "./kernel.ts";
import { narrowRow } from "./narrow.ts";
import { least, overColumns, rmsFactor, rowAddress, rowCount, rowWords } from "./rows.ts";

/** Addresses in bytes, stride in elements. */
export const ropeArgs = {
  ...rowWords,
  /** f32 [rows, numQueryHeads * headDim + numKvHeads * (headDim + valueHeadDim)] */
  qkv: 2, qkvStride: 3, numQueryHeads: 4, numKvHeads: 5, headDim: 6, valueHeadDim: 7,
  /** [pages, numKvHeads, pageSize, headDim] and [pages, numKvHeads, pageSize, valueHeadDim], in the format, in the memory `cache` */
  key: 8, value: 9,
  /** i32 [rows] */
  positions: 10, slots: 11,
  /** f32 [positions, rotaryDim / 2, 2] of (cos, sin). Elements (i, i + rotaryDim / 2) of a head are a pair; rotaryDim is even, at most headDim. */
  rotary: 12, rotaryDim: 13,
  /** f32 [headDim]; 0: none. epsilon: f32. */
  qNorm: 14, kNorm: 15, epsilon: 16,
  /** Tokens of a page; the cache's format, a number of `kvFormatNumber`. */
  pageSize: 17, format: 18,
} as const;

export const kvFormatNumber: Readonly<Record<KvCacheFormat, number>> = { f32: 0, bf16: 1, f16: 2 };

const headsPerPiece = 8;

/** Adds `ropeAndCache`. */
export function ropeAndCache(m: Module): Func {
  const formats = Object.keys(kvFormatNumber) as KvCacheFormat[];
  const memory = m.memory("cache");
  const keep = formats.map((format) => m.func(`keep_${format}`, { from: "i32", to: "i32", bytes: "i32" }, "none", ({ from, to, bytes }, local) => narrowRow(local, memory, format, from, to, bytes), { internal: true }));
  return kernel(m, "ropeAndCache", (args, _thread, local) => {
    const word = (name: keyof typeof ropeArgs): Node => argument(args, ropeArgs[name]);
    const i = (name: string): Local => local("i32", name);
    const piece = i("piece"), pieces = i("pieces"), groups = i("groups"), token = i("token"), h = i("h"), hEnd = i("hEnd");
    const numQ = i("numQueryHeads"), numQk = i("numRotatedHeads"), numHeads = i("numHeads"), slot = i("slot"), pageSize = i("pageSize"), format = i("format");
    const row = i("row"), head = i("head"), cache = i("cache"), headBytes = i("headBytes"), valueBytes = i("valueBytes");
    const norm = i("norm"), angles = i("angles"), halfBytes = i("halfBytes"), second = i("second");
    const factor = local("v128", "factor"), a = local("v128", "a"), b = local("v128", "b"), cos = local("v128", "cos"), sin = local("v128", "sin");

    const evenLanes = [0, 8, 16, 24].flatMap((byte) => [byte, byte + 1, byte + 2, byte + 3]);
    const at = (offset: Local): Node => i32.add(angles, i32.shl(offset, 1));
    const ofToken = (base: Node): Node => i32.load(i32.add(base, i32.shl(token, 2)));
    const copyToCache = (base: Node, index: Node, bytes: Local): Node[] => [
      cache.set(i32.add(i32.mul(i32.add(i32.mul(i32.div_u(slot, pageSize), word("numKvHeads")), index), pageSize), i32.rem_u(slot, pageSize))),
      cache.set(i32.add(base, i32.mul(cache, i32.shr_u(bytes, i32.ne(format, kvFormatNumber.f32))))),
      ...keep.map((write, n) => when(i32.eq(format, n), [call(write, head, cache, bytes)])),
    ];
    const normalise: Node[] = [
      norm.set(i32.select(word("qNorm"), word("kNorm"), i32.lt_s(h, numQ))),
      when(norm, [
        ...rmsFactor(local, factor, head, headBytes, f32.load(args, 4 * ropeArgs.epsilon)),
        ...overColumns(local, 0, headBytes, (lanes, c) => [lanes.store(head, c, f32x4.mul(f32x4.mul(lanes.load(head, c), factor), lanes.load(norm, c)))]),
      ]),
    ];
    /** (a, b) -> (a cos - b sin, b cos + a sin) */
    const rotate: Node[] = [
      second.set(i32.add(head, halfBytes)),
      ...overColumns(local, 0, halfBytes, (lanes, c) => [
        a.set(lanes.load(head, c)),
        b.set(lanes.load(second, c)),
        ...(lanes.count === 4
          ? [
            sin.set(v128.load(at(c), 16)),
            cos.set(v128.load(at(c))),
            factor.set(i8x16.shuffle(cos, sin, evenLanes)),
            sin.set(i8x16.shuffle(cos, sin, evenLanes.map((byte) => byte + 4))),
            cos.set(factor),
          ]
          : [cos.set(v128.load32_zero(at(c))), sin.set(v128.load32_zero(at(c), 4))]),
        lanes.store(head, c, f32x4.sub(f32x4.mul(a, cos), f32x4.mul(b, sin))),
        lanes.store(second, c, f32x4.add(f32x4.mul(b, cos), f32x4.mul(a, sin))),
      ]),
    ];
    return [
      numQ.set(word("numQueryHeads")),
      numQk.set(i32.add(numQ, word("numKvHeads"))),
      numHeads.set(i32.add(numQk, word("numKvHeads"))),
      pageSize.set(word("pageSize")),
      format.set(word("format")),
      headBytes.set(i32.shl(word("headDim"), 2)),
      valueBytes.set(i32.shl(word("valueHeadDim"), 2)),
      halfBytes.set(i32.shl(word("rotaryDim"), 1)),
      groups.set(i32.div_u(i32.add(numHeads, headsPerPiece - 1), headsPerPiece)),
      pieces.set(i32.mul(rowCount(args), groups)),
      forEachClaimed(piece, pieces, [
        token.set(i32.div_u(piece, groups)),
        h.set(i32.mul(i32.rem_u(piece, groups), headsPerPiece)),
        hEnd.set(least(i32.add(h, headsPerPiece), numHeads)),
        slot.set(ofToken(word("slots"))),
        row.set(rowAddress(word("qkv"), token, word("qkvStride"))),
        angles.set(i32.add(word("rotary"), i32.shl(i32.mul(ofToken(word("positions")), word("rotaryDim")), 2))),
        forRange(h, h, hEnd, 1, [
          block("head_done", (done) => [
            when(i32.ge_s(h, numQk), [
              head.set(i32.add(row, i32.add(i32.mul(numQk, headBytes), i32.mul(i32.sub(h, numQk), valueBytes)))),
              ...copyToCache(word("value"), i32.sub(h, numQk), valueBytes),
              branch(done),
            ]),
            head.set(i32.add(row, i32.mul(h, headBytes))),
            ...normalise,
            ...rotate,
            when(i32.ge_s(h, numQ), copyToCache(word("key"), i32.sub(h, numQ), headBytes)),
          ]),
        ]),
      ]),
    ];
  });
}
