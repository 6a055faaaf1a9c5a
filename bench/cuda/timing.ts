/** How long work takes on a GPU, by its own clock; as bench/peers/attention.py times its peers. */
import type { CudaDevice } from "../../src/backend/cuda/device.ts";

const warmCalls = 5;
const warmMs = 200;

export interface TimingOptions {
  readonly runs: number;
  /** What is given before each run, outside of its time. */
  readonly before?: () => void;
}

/** Milliseconds of each run: all are given at once, so that the host is ahead, and none waits for it. */
export async function times(device: CudaDevice, body: () => void, { runs, before }: TimingOptions): Promise<number[]> {
  const start = performance.now();
  for (let calls = 0; calls < warmCalls || performance.now() - start < warmMs; calls++) {
    body();
    device.synchronize();
  }
  const marks = Array.from({ length: runs }, () => {
    before?.();
    const from = device.record();
    body();
    return { from, to: device.record() };
  });
  const measured: number[] = [];
  for (const { from, to } of marks) {
    measured.push(await device.elapsedMs(from, to));
    from.destroy();
    to.destroy();
  }
  return measured;
}
