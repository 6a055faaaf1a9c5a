/**
 * A call of NVIDIA's libraries that failed. Knows the driver's codes that end a context, and nothing of who called.
 */

/** After these nothing of the process's context works again: every later call returns the same code. */
const lost: ReadonlySet<number> = new Set([214, 700, 702, 708, 709, 710, 714, 715, 716, 717, 718, 719, 721]);

export class CudaError extends Error {
  override readonly name = "CudaError";
  /** The library's own number: CUresult, nvrtcResult or cublasStatus_t. */
  readonly code: number;
  /** Whether the device is lost to this process. */
  readonly sticky: boolean;
  constructor(call: string, code: number, said: string) {
    const sticky = call.startsWith("cu") && !call.startsWith("cublas") && lost.has(code);
    super(`${call}: ${said} (${code})${sticky ? "; a kernel or a copy before this call failed, and the GPU is lost to this process" : ""}`);
    this.code = code;
    this.sticky = sticky;
  }
}
