/**
 * The requests in flight, as the near side keeps them: enough to hand each to another engine when the one that had it has died.
 *
 * A request goes to the next engine with the tokens that were told already, and that one goes on behind them: a stream sees no gap and no repeat.
 * Which of them may have been the death of it:
 *
 *   numDeaths      engines in a row that died while they may have worked on it, before it came `clearTokens` further: those that had told tokens, and
 *                  as many as an engine works on at once, in its order
 *   from 2 on      a suspect: suspects are handed over first, one at a time, and the next once this one has come so far (or has ended);
 *                  all others wait
 *   blamed         the suspect that is being tried when an engine dies, or whoever twice in a row was alone in it: handed to no engine again
 *
 * Knows no thread and no message.
 */
import type { SamplingParams } from "../sampling/params.ts";
import type { Delta, Standing } from "./messages.ts";

/** So many tokens after it was handed over, a request has shown that it is no engine's death. Above what a step under way can hide. */
export const clearTokens = 16;
/** Engines that may die with a request before it is tried alone. */
const suspectAfter = 2;

export interface Entry {
  readonly id: string;
  readonly prompt: Int32Array;
  /** With a seed: another engine must draw the same numbers. */
  readonly params: SamplingParams;
  readonly standing: Standing;
  /** Tokens that were told, and how many of the prompt's were told to be how likely. */
  readonly output: number[];
  numRead: number;
  /** An engine has it. */
  handedOver: boolean;
  numDeaths: number;
  /** Of `output`, before it was handed over. */
  numBefore: number;
}

export class Ledger<E extends Entry> {
  /** In the order they came. */
  readonly #entries = new Map<string, E>();
  /** Those that no engine has. */
  readonly #held = new Set<E>();
  #tried: E | undefined;

  get size(): number {
    return this.#entries.size;
  }

  get(id: string): E | undefined {
    return this.#entries.get(id);
  }

  all(): readonly E[] {
    return [...this.#entries.values()];
  }

  add(entry: E): void {
    this.#entries.set(entry.id, entry);
    this.#held.add(entry);
  }

  remove(id: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    if (this.#tried === entry) this.#tried = undefined;
    this.#entries.delete(id);
    this.#held.delete(entry);
  }

  /** Tokens of a request were told. Whether that lets others go. */
  told(entry: E, { tokens, promptLogprobs }: Delta): boolean {
    for (const token of tokens) entry.output.push(token);
    if (promptLogprobs) entry.numRead = promptLogprobs.from + promptLogprobs.logprobs.length;
    if (entry.numDeaths === 0 || entry.output.length - entry.numBefore < clearTokens) return false;
    entry.numDeaths = 0;
    if (this.#tried !== entry) return false;
    this.#tried = undefined;
    return true;
  }

  /** Who is to be handed over now; they count as handed over from here on. */
  next(): readonly E[] {
    if (this.#tried || this.#held.size === 0) return [];
    const held = [...this.#held];
    this.#tried = held.find(({ numDeaths }) => numDeaths >= suspectAfter);
    const chosen = this.#tried ? [this.#tried] : held;
    for (const entry of chosen) {
      this.#held.delete(entry);
      entry.handedOver = true;
      entry.numBefore = entry.output.length;
    }
    return chosen;
  }

  /** The engine, which works on `maxNumSeqs` at once, has died, and with it what it knew. Who is to blame, if that is known: taken out. */
  lost(maxNumSeqs: number): E | undefined {
    const had = this.all().filter(({ handedOver }) => handedOver);
    const suspect = this.#tried ?? (had.length === 1 ? had[0] : undefined);
    this.#tried = undefined;
    this.#held.clear();
    for (const entry of this.#entries.values()) this.#held.add(entry);
    had.sort((a, b) => (a.standing.priority ?? 0) - (b.standing.priority ?? 0));
    for (const [place, entry] of had.entries()) {
      entry.handedOver = false;
      if (place < maxNumSeqs || entry.output.length > entry.numBefore) entry.numDeaths++;
    }
    if (!suspect || suspect.numDeaths < suspectAfter) return undefined;
    this.remove(suspect.id);
    return suspect;
  }
}
