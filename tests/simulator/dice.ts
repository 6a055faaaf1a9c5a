/** Seeded choices: what a run draws is a function of its seed and of nothing else. */
import { stream } from "../../src/core/random.ts";

export class Dice {
  readonly #random: () => number;

  constructor(seed: number) {
    this.#random = stream(seed);
  }

  /** Both ends included. */
  int(from: number, to: number): number {
    return from + Math.floor(this.#random() * (to - from + 1));
  }

  chance(probability: number): boolean {
    return this.#random() < probability;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.int(0, values.length - 1)]!;
  }

  ints(count: number, from: number, to: number): number[] {
    return Array.from({ length: count }, () => this.int(from, to));
  }

  /** One of the keys, each as often as its weight says. */
  weighted<K extends string>(weights: Readonly<Record<K, number>>): K {
    const entries = Object.entries(weights) as [K, number][];
    let left = this.#random() * entries.reduce((sum, [, weight]) => sum + weight, 0);
    return (entries.find(([, weight]) => (left -= weight) < 0) ?? entries.at(-1)!)[0];
  }
}
