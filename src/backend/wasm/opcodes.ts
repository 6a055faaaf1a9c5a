/**
 * WebAssembly's instructions that our kernels use: one row each, [bytes, signature].
 *
 * Bytes: one byte, or a prefix (0xfc, 0xfd SIMD, 0xfe atomics) and a number. Signature: i = i32, l = i64, f = f32, d = f64, v = v128,
 * operands ">" result; behind it `m` for a memory immediate (its natural alignment in log2 bytes), `n` for a lane number,
 * `s` for the 16 lanes of a shuffle. From the core, threads and relaxed SIMD specifications.
 */
type Row = readonly [code: number | readonly [prefix: number, code: number], signature: string];

const misc = (code: number): readonly [number, number] => [0xfc, code];
const simd = (code: number): readonly [number, number] => [0xfd, code];
const atomic = (code: number): readonly [number, number] => [0xfe, code];

export const opcodes = {
  "unreachable": [0x00, ">"], "return": [0x0f, ">"], "drop.i32": [0x1a, "i>"],

  "i32.load": [0x28, "i>i m2"], "i64.load": [0x29, "i>l m3"], "f32.load": [0x2a, "i>f m2"], "f64.load": [0x2b, "i>d m3"],
  "i32.load8_s": [0x2c, "i>i m0"], "i32.load8_u": [0x2d, "i>i m0"], "i32.load16_s": [0x2e, "i>i m1"], "i32.load16_u": [0x2f, "i>i m1"],
  "i32.store": [0x36, "ii> m2"], "i64.store": [0x37, "il> m3"], "f32.store": [0x38, "if> m2"], "f64.store": [0x39, "id> m3"],
  "i32.store8": [0x3a, "ii> m0"], "i32.store16": [0x3b, "ii> m1"],

  "i32.eqz": [0x45, "i>i"], "i32.eq": [0x46, "ii>i"], "i32.ne": [0x47, "ii>i"], "i32.lt_s": [0x48, "ii>i"], "i32.lt_u": [0x49, "ii>i"],
  "i32.gt_s": [0x4a, "ii>i"], "i32.gt_u": [0x4b, "ii>i"], "i32.le_s": [0x4c, "ii>i"], "i32.le_u": [0x4d, "ii>i"], "i32.ge_s": [0x4e, "ii>i"], "i32.ge_u": [0x4f, "ii>i"],
  "i64.eqz": [0x50, "l>i"], "i64.lt_u": [0x54, "ll>i"], "i64.gt_u": [0x56, "ll>i"], "i64.ge_u": [0x5a, "ll>i"],
  "f32.eq": [0x5b, "ff>i"], "f32.ne": [0x5c, "ff>i"], "f32.lt": [0x5d, "ff>i"], "f32.gt": [0x5e, "ff>i"], "f32.le": [0x5f, "ff>i"], "f32.ge": [0x60, "ff>i"],
  "f64.eq": [0x61, "dd>i"], "f64.lt": [0x63, "dd>i"], "f64.gt": [0x64, "dd>i"],

  "i32.clz": [0x67, "i>i"], "i32.ctz": [0x68, "i>i"], "i32.popcnt": [0x69, "i>i"],
  "i32.add": [0x6a, "ii>i"], "i32.sub": [0x6b, "ii>i"], "i32.mul": [0x6c, "ii>i"], "i32.div_s": [0x6d, "ii>i"], "i32.div_u": [0x6e, "ii>i"],
  "i32.rem_s": [0x6f, "ii>i"], "i32.rem_u": [0x70, "ii>i"], "i32.and": [0x71, "ii>i"], "i32.or": [0x72, "ii>i"], "i32.xor": [0x73, "ii>i"],
  "i32.shl": [0x74, "ii>i"], "i32.shr_s": [0x75, "ii>i"], "i32.shr_u": [0x76, "ii>i"],
  "i64.add": [0x7c, "ll>l"], "i64.sub": [0x7d, "ll>l"], "i64.mul": [0x7e, "ll>l"], "i64.div_u": [0x80, "ll>l"],
  "i64.and": [0x83, "ll>l"], "i64.shl": [0x86, "ll>l"], "i64.shr_u": [0x88, "ll>l"],
  "f32.abs": [0x8b, "f>f"], "f32.neg": [0x8c, "f>f"], "f32.ceil": [0x8d, "f>f"], "f32.floor": [0x8e, "f>f"], "f32.trunc": [0x8f, "f>f"], "f32.nearest": [0x90, "f>f"],
  "f32.sqrt": [0x91, "f>f"], "f32.add": [0x92, "ff>f"], "f32.sub": [0x93, "ff>f"], "f32.mul": [0x94, "ff>f"], "f32.div": [0x95, "ff>f"], "f32.min": [0x96, "ff>f"], "f32.max": [0x97, "ff>f"],
  "f64.ceil": [0x9b, "d>d"], "f64.min": [0xa4, "dd>d"], "f64.max": [0xa5, "dd>d"],
  "f64.sqrt": [0x9f, "d>d"], "f64.add": [0xa0, "dd>d"], "f64.sub": [0xa1, "dd>d"], "f64.mul": [0xa2, "dd>d"], "f64.div": [0xa3, "dd>d"],
  "i32.wrap_i64": [0xa7, "l>i"], "i64.extend_i32_s": [0xac, "i>l"], "i64.extend_i32_u": [0xad, "i>l"],
  "f32.convert_i32_s": [0xb2, "i>f"], "f32.convert_i32_u": [0xb3, "i>f"], "f32.demote_f64": [0xb6, "d>f"],
  "f64.convert_i32_s": [0xb7, "i>d"], "f64.convert_i64_u": [0xba, "l>d"], "f64.promote_f32": [0xbb, "f>d"], "i32.reinterpret_f32": [0xbc, "f>i"], "f32.reinterpret_i32": [0xbe, "i>f"], "i64.reinterpret_f64": [0xbd, "d>l"],
  "i32.trunc_sat_f32_s": [misc(0), "f>i"], "i64.trunc_sat_f64_u": [misc(7), "d>l"],
  "i32.select": [0x1b, "iii>i"], "f32.select": [0x1b, "ffi>f"], "v128.select": [0x1b, "vvi>v"],

  "v128.load": [simd(0x00), "i>v m4"], "v128.load8x8_s": [simd(0x01), "i>v m3"], "v128.load8x8_u": [simd(0x02), "i>v m3"],
  "v128.load16x4_s": [simd(0x03), "i>v m3"], "v128.load16x4_u": [simd(0x04), "i>v m3"], "v128.load8_splat": [simd(0x07), "i>v m0"],
  "v128.load16_splat": [simd(0x08), "i>v m1"], "v128.load32_splat": [simd(0x09), "i>v m2"], "v128.load64_splat": [simd(0x0a), "i>v m3"], "v128.store": [simd(0x0b), "iv> m4"],
  "i8x16.shuffle": [simd(0x0d), "vv>v s"], "i8x16.swizzle": [simd(0x0e), "vv>v"],
  "i8x16.splat": [simd(0x0f), "i>v"], "i16x8.splat": [simd(0x10), "i>v"], "i32x4.splat": [simd(0x11), "i>v"], "f32x4.splat": [simd(0x13), "f>v"], "f64x2.splat": [simd(0x14), "d>v"],
  "i32x4.extract_lane": [simd(0x1b), "v>i n"], "i32x4.replace_lane": [simd(0x1c), "vi>v n"], "f32x4.extract_lane": [simd(0x1f), "v>f n"], "f32x4.replace_lane": [simd(0x20), "vf>v n"],
  "i64x2.extract_lane": [simd(0x1d), "v>l n"],
  "f64x2.extract_lane": [simd(0x21), "v>d n"], "f64x2.replace_lane": [simd(0x22), "vd>v n"],
  "i32x4.eq": [simd(0x37), "vv>v"], "i32x4.ne": [simd(0x38), "vv>v"], "i32x4.lt_s": [simd(0x39), "vv>v"], "i32x4.lt_u": [simd(0x3a), "vv>v"], "i32x4.gt_s": [simd(0x3b), "vv>v"],
  "i32x4.gt_u": [simd(0x3c), "vv>v"], "i32x4.le_s": [simd(0x3d), "vv>v"], "i32x4.ge_s": [simd(0x3f), "vv>v"], "i32x4.ge_u": [simd(0x40), "vv>v"],
  "f32x4.eq": [simd(0x41), "vv>v"], "f32x4.ne": [simd(0x42), "vv>v"], "f32x4.lt": [simd(0x43), "vv>v"], "f32x4.gt": [simd(0x44), "vv>v"], "f32x4.le": [simd(0x45), "vv>v"], "f32x4.ge": [simd(0x46), "vv>v"],
  "f64x2.eq": [simd(0x47), "vv>v"], "f64x2.ne": [simd(0x48), "vv>v"], "f64x2.lt": [simd(0x49), "vv>v"], "f64x2.gt": [simd(0x4a), "vv>v"], "f64x2.le": [simd(0x4b), "vv>v"], "f64x2.ge": [simd(0x4c), "vv>v"],
  "v128.not": [simd(0x4d), "v>v"], "v128.and": [simd(0x4e), "vv>v"], "v128.andnot": [simd(0x4f), "vv>v"], "v128.or": [simd(0x50), "vv>v"], "v128.xor": [simd(0x51), "vv>v"],
  "v128.bitselect": [simd(0x52), "vvv>v"], "v128.any_true": [simd(0x53), "v>i"],
  "v128.load32_lane": [simd(0x56), "iv>v m2 n"], "v128.load64_lane": [simd(0x57), "iv>v m3 n"], "v128.load16_lane": [simd(0x55), "iv>v m1 n"],
  "v128.store32_lane": [simd(0x5a), "iv> m2 n"], "v128.store64_lane": [simd(0x5b), "iv> m3 n"], "v128.load32_zero": [simd(0x5c), "i>v m2"], "v128.load64_zero": [simd(0x5d), "i>v m3"],
  "f32x4.demote_f64x2_zero": [simd(0x5e), "v>v"], "f64x2.promote_low_f32x4": [simd(0x5f), "v>v"],
  "f32x4.ceil": [simd(0x67), "v>v"], "f32x4.floor": [simd(0x68), "v>v"], "f32x4.trunc": [simd(0x69), "v>v"], "f32x4.nearest": [simd(0x6a), "v>v"],
  "f64x2.ceil": [simd(0x74), "v>v"], "f64x2.floor": [simd(0x75), "v>v"], "f64x2.trunc": [simd(0x7a), "v>v"], "f64x2.nearest": [simd(0x94), "v>v"],
  "i32x4.abs": [simd(0xa0), "v>v"], "i32x4.neg": [simd(0xa1), "v>v"], "i32x4.all_true": [simd(0xa3), "v>i"], "i32x4.bitmask": [simd(0xa4), "v>i"],
  "i32x4.extend_low_i16x8_s": [simd(0xa7), "v>v"], "i32x4.extend_high_i16x8_s": [simd(0xa8), "v>v"], "i32x4.extend_low_i16x8_u": [simd(0xa9), "v>v"], "i32x4.extend_high_i16x8_u": [simd(0xaa), "v>v"],
  "i32x4.shl": [simd(0xab), "vi>v"], "i32x4.shr_s": [simd(0xac), "vi>v"], "i32x4.shr_u": [simd(0xad), "vi>v"],
  "i32x4.add": [simd(0xae), "vv>v"], "i32x4.sub": [simd(0xb1), "vv>v"], "i32x4.mul": [simd(0xb5), "vv>v"], "i32x4.min_s": [simd(0xb6), "vv>v"], "i32x4.max_s": [simd(0xb8), "vv>v"],
  "i64x2.shl": [simd(0xcb), "vi>v"], "i64x2.shr_u": [simd(0xcd), "vi>v"], "i64x2.add": [simd(0xce), "vv>v"], "i64x2.sub": [simd(0xd1), "vv>v"],
  "i64x2.extend_low_i32x4_s": [simd(0xc7), "v>v"], "i64x2.extend_high_i32x4_s": [simd(0xc8), "v>v"],
  "f32x4.abs": [simd(0xe0), "v>v"], "f32x4.neg": [simd(0xe1), "v>v"], "f32x4.sqrt": [simd(0xe3), "v>v"], "f32x4.add": [simd(0xe4), "vv>v"], "f32x4.sub": [simd(0xe5), "vv>v"],
  "f32x4.mul": [simd(0xe6), "vv>v"], "f32x4.div": [simd(0xe7), "vv>v"], "f32x4.min": [simd(0xe8), "vv>v"], "f32x4.max": [simd(0xe9), "vv>v"], "f32x4.pmin": [simd(0xea), "vv>v"], "f32x4.pmax": [simd(0xeb), "vv>v"],
  "f64x2.abs": [simd(0xec), "v>v"], "f64x2.neg": [simd(0xed), "v>v"], "f64x2.sqrt": [simd(0xef), "v>v"], "f64x2.add": [simd(0xf0), "vv>v"], "f64x2.sub": [simd(0xf1), "vv>v"],
  "f64x2.mul": [simd(0xf2), "vv>v"], "f64x2.div": [simd(0xf3), "vv>v"], "f64x2.min": [simd(0xf4), "vv>v"], "f64x2.max": [simd(0xf5), "vv>v"], "f64x2.pmin": [simd(0xf6), "vv>v"], "f64x2.pmax": [simd(0xf7), "vv>v"],
  "i32x4.trunc_sat_f32x4_s": [simd(0xf8), "v>v"], "f32x4.convert_i32x4_s": [simd(0xfa), "v>v"], "i32x4.trunc_sat_f64x2_s_zero": [simd(0xfc), "v>v"], "f64x2.convert_low_i32x4_s": [simd(0xfe), "v>v"],
  "i8x16.narrow_i16x8_s": [simd(0x65), "vv>v"], "i16x8.narrow_i32x4_s": [simd(0x85), "vv>v"], "i16x8.shl": [simd(0x8b), "vi>v"], "i16x8.shr_u": [simd(0x8d), "vi>v"],
  "i16x8.extend_low_i8x16_s": [simd(0x87), "v>v"], "i16x8.extend_high_i8x16_s": [simd(0x88), "v>v"], "i16x8.extend_low_i8x16_u": [simd(0x89), "v>v"], "i16x8.extend_high_i8x16_u": [simd(0x8a), "v>v"],
  "i32x4.dot_i16x8_s": [simd(0xba), "vv>v"],
  "i32x4.relaxed_dot_i8x16_i7x16_add_s": [simd(0x113), "vvv>v"],
  "f32x4.relaxed_madd": [simd(0x105), "vvv>v"], "f32x4.relaxed_nmadd": [simd(0x106), "vvv>v"], "f64x2.relaxed_madd": [simd(0x107), "vvv>v"], "f64x2.relaxed_nmadd": [simd(0x108), "vvv>v"],

  "memory.atomic.notify": [atomic(0x00), "ii>i m2"], "memory.atomic.wait32": [atomic(0x01), "iil>i m2"],
  "i32.atomic.load": [atomic(0x10), "i>i m2"], "i32.atomic.store": [atomic(0x17), "ii> m2"], "i32.atomic.rmw.add": [atomic(0x1e), "ii>i m2"], "i32.atomic.rmw.sub": [atomic(0x25), "ii>i m2"],
  "i32.atomic.rmw.or": [atomic(0x33), "ii>i m2"], "i32.atomic.rmw.xchg": [atomic(0x41), "ii>i m2"], "i32.atomic.rmw.cmpxchg": [atomic(0x48), "iii>i m2"],
} as const satisfies Readonly<Record<string, Row>>;

export type Opcode = keyof typeof opcodes;
