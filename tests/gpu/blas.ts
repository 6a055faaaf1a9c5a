/** Matrix products by cuBLASLt against loops in float64, through the backend's own call, and their times. */
import type { MatrixType } from "../../src/backend/cuda/blas.ts";
import { fromFloat32, toFloat32 } from "../../src/core/dtype.ts";
import { type Machine, openBlas, timeOf } from "./machine.ts";
import { us } from "./report.ts";

/** Half of the last bit, twice. */
const epsilon: Readonly<Record<MatrixType, number>> = { f32: 2 ** -23, bf16: 2 ** -8, f16: 2 ** -11 };
const sizes = [[1, 64, 64], [5, 128, 256], [33, 96, 520], [129, 768, 512]] as const;
const kinds = [["bf16", "bf16", ""], ["bf16", "f32", ""], ["bf16", "f32", "residual"], ["f16", "f16", ""], ["f16", "f32", "residual"], ["f32", "f32", ""]] as const;
const timed = [[1, 4096, 4096], [16, 4096, 4096], [256, 6144, 4096], [4096, 4096, 4096]] as const;

export async function checkBlas(machine: Machine, quick: boolean): Promise<void> {
  const { device, report } = machine, blas = await openBlas(machine);
  if (!blas) return;
  /** Values as the type holds them. */
  const random = (n: number, type: MatrixType): Float32Array => toFloat32(fromFloat32(Float32Array.from({ length: n }, () => Math.random() * 2 - 1), type), type);
  const put = (values: Float32Array, type: MatrixType): number => {
    const bytes = fromFloat32(values, type), address = device.alloc(bytes.length);
    device.write(address, bytes);
    return address;
  };
  for (const [M, N, K] of sizes) for (const [xType, outType, extra] of kinds) {
    const xStride = K + 8, outStride = N + 16, withResidual = extra === "residual";
    const x = random(M * xStride, xType), w = random(N * K, xType), r = random(M * outStride, outType);
    const [dx, dw, dr, out] = [put(x, xType), put(w, xType), put(r, "f32"), put(r, outType)] as const;
    blas.matmul({ out, outType, outStride, x: dx, xType, xStride, weight: dw, rows: M, N, K, ...(withResidual && { residual: M % 2 ? out : dr }) });
    const got = toFloat32(await device.read(out, M * outStride * (outType === "f32" ? 4 : 2)), outType);
    let worst = 0, untouched = true;
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let sum = 0, size = 0;
        for (let k = 0; k < K; k++) {
          const product = x[i * xStride + k]! * w[j * K + k]!;
          sum += product;
          size += Math.abs(product);
        }
        if (withResidual) sum += r[i * outStride + j]!;
        const error = Math.abs(got[i * outStride + j]! - sum) / (epsilon[outType] * Math.abs(sum) + K * 2 ** -24 * size + 1e-6);
        worst = Number.isNaN(error) ? Infinity : Math.max(worst, error);
      }
      for (let j = N; j < outStride; j++) untouched &&= got[i * outStride + j] === r[i * outStride + j];
    }
    report.check(worst <= 1 && untouched, `matmul [${M}, ${K}] [${N}, ${K}] ${xType} -> ${outType} ${extra}: ${worst.toFixed(3)} of what rounding allows${untouched ? "" : ", wrote between rows"}`);
    for (const address of [dx, dw, dr, out]) device.free(address);
  }
  if (!quick) for (const [M, N, K] of timed) {
    const [x, weight, out] = [device.alloc(2 * M * K), device.alloc(2 * N * K), device.alloc(4 * M * N)];
    const call = { out, outType: "f32", outStride: N, x, xType: "bf16", xStride: K, weight, rows: M, N, K, residual: out } as const;
    blas.matmul(call); // what it sets up for itself is set up outside the capture
    const ms = await timeOf(machine, 20, () => blas.matmul(call));
    report.time(`captured matmul [${M}, ${K}] [${N}, ${K}] (of zeros): ${us(ms)}, ${((2 * M * N * K) / ms / 1e9).toFixed(1)} TFLOP/s, ${((2 * N * K) / ms / 1e6).toFixed(0)} GB/s of weights`);
    const start = performance.now();
    for (let i = 0; i < 200; i++) blas.matmul(call);
    report.time(`  JavaScript of a call: ${us(performance.now() - start, 200)}`);
    for (const address of [x, weight, out]) device.free(address);
  }
  device.synchronize();
  blas.close();
}
