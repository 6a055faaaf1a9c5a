/** One conversation on a bare socket: what is sent need not be HTTP, what comes back is read as it. */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export type Bytes = string | Uint8Array;

export interface ExchangeOptions {
  /** A pause after each part. */
  readonly slices?: boolean;
  readonly patienceMs?: number;
  /** Longest that the server may take. Default 10 seconds. */
  readonly limitMs?: number;
}

export interface Exchange {
  readonly statuses: readonly number[];
  readonly text: string;
}

/**
 * Sends the parts, and gives all statuses that come back until the server closes its side. The client closes its own after so many milliseconds of
 * silence: to the server it has left, as it does with most clients, so a request that it has read is then not answered.
 */
export function exchange(port: number, parts: readonly Bytes[], { slices = false, patienceMs = Infinity, limitMs = 10_000 }: ExchangeOptions = {}): Promise<Exchange> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    const chunks: Buffer[] = [];
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end after ${limitMs} ms; so far ${Buffer.concat(chunks).toString("latin1").slice(0, 300)}`));
    }, limitMs);
    socket.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      if (patienceMs < Infinity) socket.end();
    });
    socket.on("error", () => {}); // Resets are an answer too, and close follows.
    socket.on("close", () => {
      clearTimeout(timer);
      const text = Buffer.concat(chunks).toString("latin1");
      resolve({ text, statuses: [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status)) });
    });
    socket.on("connect", async () => {
      socket.setNoDelay(true);
      for (const part of parts) {
        if (socket.destroyed) return;
        socket.write(part);
        if (slices) await sleep(0);
      }
      if (patienceMs < Infinity) setTimeout(() => socket.end(), patienceMs);
    });
  });
}
