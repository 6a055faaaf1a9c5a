/**
 * When a second signal is the first one again. A terminal's Ctrl-C reaches this process and whatever started it, which passes it on;
 * and a launcher whose shell that Ctrl-C ended asks this process to stop as soon as it notices.
 */
export interface Heard {
  readonly signal: string;
  /** Seconds. */
  readonly at: number;
}

/** Nobody presses Ctrl-C twice within this. */
const passedOnSeconds = 0.1;
/** A launcher looks for its shell five times a second. */
const noticedSeconds = 0.5;

/** Whether `next` tells nothing that `first` has not told. */
export function isRepeat(first: Heard, next: Heard): boolean {
  return next.at - first.at < (next.signal === first.signal ? passedOnSeconds : noticedSeconds);
}
