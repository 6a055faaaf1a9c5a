/**
 * Matrix products by cuBLASLt: out[M, N] = x[M, K] weight[N, K]^T (+ residual), row-major, sums in f32.
 *
 * cuBLASLt thinks in columns: a row-major matrix is its transpose there. So it is asked for out^T = weight x^T, where `weight` is A, transposed,
 * and `x` is B as it is. Which of its kernels runs is its own choice, made once for each shape; so the order of sums may differ from one M to
 * another. Knows nothing of models.
 */
import { alignedBytes, loadCublasLt } from "#cuda-ffi";
import { invariant, UsageError } from "../../core/errors.ts";
import type { CudaDevice } from "./device.ts";
import { CudaError } from "./errors.ts";
import { Out } from "./transfers.ts";

export type MatrixType = "f32" | "bf16" | "f16";

/** Strides are elements from a row to the next; addresses multiples of 16 for the fast kernels. */
export interface Matmul {
  /** [M, N] */
  readonly out: number;
  readonly outType: MatrixType;
  readonly outStride: number;
  /** [M, K] */
  readonly x: number;
  readonly xType: MatrixType;
  readonly xStride: number;
  /** [N, K] of xType, rows without a gap */
  readonly weight: number;
  /** M */
  readonly rows: number;
  readonly N: number;
  readonly K: number;
  /** f32 [M, N] with the stride of `out`, which is f32 then; may be `out`. */
  readonly residual?: number;
}

const dataTypes: Readonly<Record<MatrixType, number>> = { f32: 0, f16: 2, bf16: 14 };
const compute32F = 68;
const transposeA = 3, transposed = 1;
const prefer = { workspace: 1, reductions: 3, alignments: [5, 6, 7, 8] } as const;
/** A sum that is split along K may be put together in f32 alone; left to itself, cuBLASLt also takes algorithms that round each part to the type of `out`. */
const reductionInF32 = 2;
/** Words of a cublasLtMatmulHeuristicResult_t, 96 bytes: the algorithm (64 bytes), its workspace (8), a status (4), and more. */
const result = { state: 18, words: 24 } as const;
const workspaceBytes = 64 * 2 ** 20;
/** Shapes that are remembered: steps of many tokens come in any number of rows. */
const mostPrepared = 4096;

/** The largest power of two that divides an address, at most 256: what cuBLASLt takes for granted if nobody tells it. */
function alignmentOf(address: number | undefined): number {
  let alignment = 256;
  while (address !== undefined && address % alignment !== 0) alignment /= 2;
  return alignment;
}

/** What cuBLASLt needs to know of a shape. `algorithm` is kept for its address. */
interface Prepared {
  readonly description: number;
  readonly layouts: { readonly weight: number; readonly x: number; readonly out: number };
  readonly algorithm: { readonly words: Uint32Array; readonly address: number };
}

export class Blas {
  readonly #lt: Awaited<ReturnType<typeof loadCublasLt>>;
  readonly #device: CudaDevice;
  readonly #handle: number;
  readonly #workspace: number;
  readonly #prepared = new Map<string, Prepared>();
  /** Factors lie in host memory: 1 and 0. */
  readonly #factors = alignedBytes(8, 8);
  readonly #out = new Out();

  /** Takes 64 MiB of the device; or says why there is none. */
  static async open(device: CudaDevice): Promise<{ readonly blas: Blas; readonly missing?: never } | { readonly blas?: never; readonly missing: string }> {
    try {
      return { blas: new Blas(device, await loadCublasLt(device.cudaMajor)) };
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      return { missing: error.message };
    }
  }

  private constructor(device: CudaDevice, lt: Awaited<ReturnType<typeof loadCublasLt>>) {
    this.#device = device;
    this.#lt = lt;
    lt.cublasLtCreate(this.#out.words);
    this.#handle = this.#out.u64;
    this.#workspace = device.alloc(workspaceBytes);
    new Float32Array(this.#factors.bytes.buffer, this.#factors.bytes.byteOffset, 2).set([1, 0]);
  }

  /** Where the library was found. */
  get file(): string {
    return this.#lt.file;
  }

  /** Queues a product on the device's stream; may be captured. */
  matmul(m: Matmul): void {
    invariant(m.residual === undefined || m.outType === "f32", "a residual is added to f32");
    if (m.rows === 0) return;
    const { description, layouts, algorithm } = this.#prepare(m), lt = this.#lt, one = this.#factors.address, zero = one + 4;
    lt.cublasLtMatmul(
      this.#handle, description, one, m.weight, layouts.weight, m.x, layouts.x, m.residual === undefined ? zero : one, m.residual ?? m.out, layouts.out, m.out, layouts.out,
      algorithm.address, this.#workspace, workspaceBytes, this.#device.stream,
    );
  }

  /** The device's stream must have been waited for. */
  close(): void {
    for (const prepared of this.#prepared.values()) this.#forget(prepared);
    this.#prepared.clear();
    this.#lt.cublasLtDestroy(this.#handle);
    this.#device.free(this.#workspace);
  }

  #prepare(m: Matmul): Prepared {
    const alignments = [alignmentOf(m.weight), alignmentOf(m.x), alignmentOf(m.residual), alignmentOf(m.out)];
    const key = `${m.rows} ${m.N} ${m.K} ${m.xType} ${m.xStride} ${m.outType} ${m.outStride} ${alignments.join(" ")}`;
    let prepared = this.#prepared.get(key);
    if (prepared) this.#prepared.delete(key); // to the end of the line: what was asked for longest ago goes first
    else {
      prepared = this.#choose(m, alignments);
      const oldest = this.#prepared.size < mostPrepared ? undefined : this.#prepared.entries().next().value;
      if (oldest) {
        this.#forget(oldest[1]);
        this.#prepared.delete(oldest[0]);
      }
    }
    this.#prepared.set(key, prepared);
    return prepared;
  }

  #forget({ description, layouts }: Prepared): void {
    this.#lt.cublasLtMatmulDescDestroy(description);
    for (const layout of Object.values(layouts)) this.#lt.cublasLtMatrixLayoutDestroy(layout);
  }

  #choose(m: Matmul, alignments: readonly number[]): Prepared {
    const lt = this.#lt, out = this.#out;
    const layout = (type: MatrixType, rows: number, columns: number, stride: number): number => {
      lt.cublasLtMatrixLayoutCreate(out.words, dataTypes[type], rows, columns, stride);
      return out.u64;
    };
    const layouts = { weight: layout(m.xType, m.K, m.N, m.K), x: layout(m.xType, m.K, m.rows, m.xStride), out: layout(m.outType, m.N, m.rows, m.outStride) };
    lt.cublasLtMatmulDescCreate(out.words, compute32F, dataTypes.f32);
    const description = out.u64;
    lt.cublasLtMatmulDescSetAttribute(description, transposeA, out.set(transposed), 4);
    lt.cublasLtMatmulPreferenceCreate(out.words);
    const preference = out.u64;
    try {
      lt.cublasLtMatmulPreferenceSetAttribute(preference, prefer.workspace, out.set(workspaceBytes), 8);
      lt.cublasLtMatmulPreferenceSetAttribute(preference, prefer.reductions, out.set(reductionInF32), 4);
      prefer.alignments.forEach((which, i) => lt.cublasLtMatmulPreferenceSetAttribute(preference, which, out.set(alignments[i]!), 4));
      const memory = alignedBytes(4 * result.words, 16), words = new Uint32Array(memory.bytes.buffer, memory.bytes.byteOffset, result.words), found = new Out();
      lt.cublasLtMatmulAlgoGetHeuristic(this.#handle, description, layouts.weight, layouts.x, layouts.out, layouts.out, preference, 1, words, found.words);
      if (found.i32 < 1 || words[result.state] !== 0) throw new CudaError("cublasLtMatmulAlgoGetHeuristic", words[result.state]!, `no algorithm for ${JSON.stringify(m)}`);
      return { description, layouts, algorithm: { words, address: memory.address } };
    } finally {
      lt.cublasLtMatmulPreferenceDestroy(preference);
    }
  }
}
