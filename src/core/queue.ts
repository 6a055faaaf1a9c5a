/**
 * A first-in first-out hand-over from any number of producers to one consumer that waits with `for await`.
 *
 * Producers never wait: what bounds the queue is the request's own length (max_tokens).
 */
export class Queue<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  #error: unknown;

  /** Adds an item; ignored after `end` or `fail`, as the consumer has gone. */
  push(item: T): void {
    if (this.#ended) return;
    this.#items.push(item);
    this.#wake?.();
  }

  /** No more items: the consumer finishes once it has read what is there. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** The consumer throws `error` once it has read what is there. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#error = error;
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    for (;;) {
      while (this.#items.length > 0) yield this.#items.shift()!;
      if (this.#ended) {
        if (this.#error !== undefined) throw this.#error;
        return;
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
  }
}
