/**
 * Shows how far long work has come: one line that redraws itself on a terminal, now and then a plain line elsewhere.
 * It knows no kind of work; whoever works names the stage.
 */

export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export interface ProgressLine {
  report(stage: string, done: number, total: number): void;
  /** Clears the line; report no more. */
  finish(): void;
}

const mebi = 2 ** 20;
const barWidth = 24;
const secondsBetweenLines = 2;
const secondsBetweenDraws = 0.05;

/** "12.5 of 25.0 MiB"; one unit for all bytes, with more digits where there are few: 300 bytes are "0.001 of 0.001 MiB". */
function bytesText(done: number, total: number): string {
  const inMebi = (bytes: number) => (total >= mebi ? (bytes / mebi).toFixed(1) : (Math.ceil(bytes / mebi * 1000) / 1000).toFixed(3));
  return `${inMebi(done)} of ${inMebi(total)} MiB`;
}

/** Progress on `screen`. `now` gives seconds; `amount` says how far, by default in bytes. */
export function createProgress(screen: Screen, now: () => number, amount = bytesText): ProgressLine {
  let stage: string | undefined;
  let shownAt = -Infinity;
  let shownDone = 0;
  const terminal = (name: string, done: number, total: number) => {
    const part = total > 0 ? Math.min(1, done / total) : 0;
    const bar = "█".repeat(Math.round(part * barWidth)).padEnd(barWidth, "░");
    const line = `${bar} ${Math.floor(part * 100)}% ${name} ${amount(done, total)}`;
    screen.write(`\r\x1b[2K${line.slice(0, (screen.columns || 80) - 1)}`);
  };
  const plain = (name: string, done: number, total: number) => screen.write(`${name}: ${amount(done, total)}\n`);
  return {
    report(name, done, total) {
      const at = now();
      const next = name !== stage || at - shownAt >= (screen.isTTY ? secondsBetweenDraws : secondsBetweenLines);
      // A log that stops at 0.8 of 4.1 MiB reads as if the work had.
      const last = done === total && shownDone !== done;
      if (!next && !last) return;
      stage = name;
      shownAt = at;
      shownDone = done;
      (screen.isTTY ? terminal : plain)(name, done, total);
    },
    finish() {
      if (screen.isTTY && stage !== undefined) screen.write("\r\x1b[2K");
    },
  };
}
