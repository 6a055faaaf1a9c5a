/** Instructions counted in machine code: each number is found again where it must be, and a soft cap costs what it may. NVRTC is needed, but no GPU. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { causal, planAttention, type ScoreMod, softCap } from "../../src/attention/index.ts";
import { attentionSource, type Holding } from "../../src/backend/cuda/attention.ts";
import { Compiler } from "../../src/backend/cuda/compiler.ts";
import { UsageError } from "../../src/core/errors.ts";
import { codeOf, type KernelCode, type Opcode, opcodes, sectionsOf } from "./sass.ts";

/** Kernels of which each has what its name says so often, and a store; what else they have is the compiler's. */
const probes: Readonly<Record<string, { readonly has: Partial<Record<Opcode, number>>; readonly body: string }>> = {
  products: {
    has: { HMMA: 3, MUFU: 0, LDSM: 0, LDGSTS: 0 },
    body: `float d[4] = {0, 0, 0, 0}; unsigned a = threadIdx.x, b = p.n;
#pragma unroll
    for (int i = 0; i < 3; i++) asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%5, %5}, {%0, %1, %2, %3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a), "r"(b));
    p.y[threadIdx.x] = d[0] + d[1] + d[2] + d[3];`,
  },
  approximations: {
    has: { MUFU: 7, HMMA: 0, LDG: 1, BAR: 0 },
    body: `float a = p.x[threadIdx.x];
#pragma unroll
    for (int i = 0; i < 5; i++) asm volatile("tanh.approx.f32 %0, %0;" : "+f"(a));
    asm volatile("rcp.approx.ftz.f32 %0, %0;" : "+f"(a)); // the other way about these two would be one
    asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(a));
    p.y[threadIdx.x] = a;`,
  },
  matrices: {
    has: { LDSM: 2, BAR: 1, HMMA: 0, LDG: 0 },
    body: `__shared__ unsigned s[256]; unsigned f = (unsigned)__cvta_generic_to_shared(s + 4 * threadIdx.x), r[4], t[4];
    s[threadIdx.x] = p.n;
    __syncthreads();
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(f) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(t[0]), "=r"(t[1]), "=r"(t[2]), "=r"(t[3]) : "r"(f) : "memory");
    p.y[threadIdx.x] = r[0] + r[1] + r[2] + r[3] + t[0] + t[1] + t[2] + t[3];`,
  },
  copies: {
    has: { LDGSTS: 2, LDG: 0, LDSM: 0 },
    body: `__shared__ float s[1024]; unsigned f = (unsigned)__cvta_generic_to_shared(s + 8 * threadIdx.x);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(f), "l"(p.x) : "memory");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" :: "r"(f + 16), "l"(p.x + 64) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    p.y[threadIdx.x] = s[8 * threadIdx.x];`,
  },
  sums: {
    has: { FFMA: 4, LDG: 2, MUFU: 0 },
    body: `float a = p.x[threadIdx.x], b = p.x[threadIdx.x + p.n];
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("fma.rn.f32 %0, %0, %0, %1;" : "+f"(a) : "f"(b));
    p.y[threadIdx.x] = a;`,
  },
  // One back to the label, and the one to itself behind every kernel's end.
  jumps: {
    has: { BRA: 2, MUFU: 0, LDG: 1 },
    body: `float a = 0; asm volatile("{ .reg .pred q; .reg .f32 v; L: ld.volatile.global.f32 v, [%1]; add.f32 %0, %0, v; setp.ne.f32 q, v, 0f00000000; @q bra L; }" : "+f"(a) : "l"(p.x) : "memory");
    p.y[threadIdx.x] = a;`,
  },
};
const source = `struct Params { float* y; const float* x; int n; };
${Object.entries(probes).map(([name, { body }]) => `extern "C" __global__ void ${name}(const __grid_constant__ Params p) {\n${body}\n}`).join("\n")}\n`;

const opened = await Promise.all(["sm_90a", "sm_80"].map((arch) => Compiler.open(arch))).catch((error: unknown) => {
  if (error instanceof UsageError) return error.message.split("\n")[0]!;
  throw error;
});

describe("NVRTC", { skip: typeof opened === "string" ? opened : false }, () => {
  const compilers = opened as readonly Compiler[];

  test("every operation has the number that is counted, on sm_90a and sm_80", async () => {
    for (const compiler of compilers) {
      const codes = codeOf((await compiler.compile("probes.cu", source)).cubin), by = new Map(codes.map((code) => [code.kernel, code]));
      assert.deepEqual([...by.keys()].toSorted(), Object.keys(probes).toSorted());
      for (const [name, { has }] of Object.entries(probes)) {
        const { counts, bytes, histogram } = by.get(name)!;
        for (const [opcode, n] of Object.entries({ STG: 1, ...has })) assert.equal(counts[opcode as Opcode], n, `${compiler.arch} ${name}: ${opcode}`);
        assert.equal([...histogram.values()].reduce((a, b) => a + b), bytes / 16);
      }
    }
    const seen = new Set(Object.values(probes).flatMap(({ has }) => Object.entries(has).filter(([, n]) => n > 0).map(([opcode]) => opcode)));
    assert.deepEqual(Object.keys(opcodes).filter((opcode) => opcode !== "STG" && !seen.has(opcode)), [], "no probe has them");
  });

  test("a soft cap adds one MUFU for each score to the attention kernel, and one for the cap", async () => {
    const [compiler] = compilers;
    const attention = async (holding: Holding, mod?: ScoreMod): Promise<KernelCode> => {
      const { plan } = planAttention({
        maskMod: causal, ...(mod && { scoreMod: mod }), numQueryHeads: 32, numKvHeads: 8, headDimQk: 128, headDimV: 128, queryTile: 128, kvTile: 64, queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16",
      });
      const { general } = attentionSource(plan, { maxSharedBytes: 227 * 1024, deterministic: false }, holding);
      const code = codeOf((await compiler!.compile("attention.cu", general.text)).cubin);
      assert.equal(code.length, 1);
      return code[0]!;
    };
    for (const rowsOfWarp of [32, 16] as const) {
      const holding: Holding = { rowsOfWarp, keysOfBlock: 64, packed: false }, plain = await attention(holding), capped = await attention(holding, softCap(50));
      // A thread has its part of a warp's scores; products of Q K^T make four of them each, 16 deep, and those of P V are as many, as both heads have 128.
      const scores = (rowsOfWarp * 64) / 32, products = 2 * (scores / 4) * (128 / 16);
      assert.deepEqual([plain.counts.HMMA, capped.counts.HMMA], [products, products]);
      // The softmax stands there twice: for blocks that are whole, and for those with keys to leave out. The cap's reciprocal is taken once in each.
      assert.equal(capped.counts.MUFU - plain.counts.MUFU, 2 * (scores + 1), `${rowsOfWarp} rows: ${plain.counts.MUFU} and ${capped.counts.MUFU}`);
      for (const opcode of ["FFMA", "LDSM", "LDG", "LDGSTS", "STG", "BAR"] as const) assert.equal(capped.counts[opcode], plain.counts[opcode], opcode);
    }
  });
});

test("what is no cubin is refused", () => {
  assert.throws(() => sectionsOf(new Uint8Array(100)), /a cubin is an ELF file/);
  assert.throws(() => sectionsOf(new Uint8Array()), /a cubin is an ELF file/);
});
