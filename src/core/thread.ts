/**
 * The contract of a thread: what `#thread` is on every platform. Messages are structured clones. To a thread shared memory crosses as itself; to a
 * process, which is a thread in all else here, it does not cross.
 */
export interface Thread {
  post(message: unknown, transfer?: readonly ArrayBuffer[]): void;
  onMessage(handler: (message: unknown) => void): void;
  /** Called once when the thread is gone, with the reason for people: an error's message, or how it ended. */
  onExit(handler: (reason: string) => void): void;
  /** The process may end while this thread lives. */
  unref(): void;
  /** Undoes `unref`. */
  ref(): void;
  terminate(): Promise<void>;
}

/** A thread's view of whoever spawned it. */
export interface Parent {
  /** What `spawn` or `spawnProcess` was given. */
  readonly data: unknown;
  post(message: unknown, transfer?: readonly ArrayBuffer[]): void;
  /** What came before the first handler was there, it still gets. */
  onMessage(handler: (message: unknown) => void): void;
}
