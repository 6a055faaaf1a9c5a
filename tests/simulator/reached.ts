/** Situations that runs must get into, counted: a simulation that never preempts says nothing about preemption. */
const always = {
  steps: 0, "tokens compared": 0, "log-probabilities compared": 0,
  preemptions: 0, chunks: 0, "steps with the whole budget": 0, "waits for a sequence": 0, "waits for pages": 0,
  "partial hits": 0, "whole hits": 0, "pages found again after a preemption": 0, "waits on promised pages": 0, joins: 0, "shared pages": 0, evictions: 0,
  "hits among collisions": 0, "runs without caching": 0,
  "ends by an end token": 0, "ends by a stop id": 0, "ends by maxTokens": 0, "ends by the context": 0,
  "refused requests": 0, "logits that are no numbers": 0, "rules that leave nothing": 0, "seeds drawn by the engine": 0,
  "aborts while waiting": 0, "aborts while preempted": 0, "aborts within a prompt": 0, "aborts while decoding": 0, "aborts during a step": 0, "aborts of what has ended": 0, "aborts of all": 0,
  "requests that come during a step": 0, "steps that fail alone": 0, "steps that fail in company": 0, "parts computed again": 0, "aborts while parts are computed again": 0,
  "machines that break down": 0,
  "pages that expire": 0, "pages that had expired when they were found": 0, "preemptions where pages expire": 0, "requests longer than the pool": 0,
  "drafts that are right": 0, "drafts that are wrong": 0, "answers of several tokens": 0, "drafts that a request ends with": 0, "aborts while drafts are thought of": 0, "steps that fail with drafts": 0, "steps that rest from drafts": 0,
  "prompts read": 0, "prompts read on after a preemption": 0, "prompts cut by rows of logits": 0, "choices that share pages": 0, "requests that overtake": 0, "functions that fail": 0,
  "rows for the host": 0, "rows with rules": 0, questions: 0,
};
const ahead = { "steps ahead": 0, "ends that a step was ahead of": 0, "aborts with a step ahead": 0, "steps behind one that fails": 0, "rows with rules in a step ahead": 0, "questions in a step ahead": 0 };

export type Situation = keyof typeof always | keyof typeof ahead;
export type Reached = Record<Situation, number>;

export const nothingReached = (): Reached => ({ ...always, ...ahead });

/** What a machine of this kind should have come to and has not. */
export function missing(reached: Reached, kind: "waited" | "ahead"): string[] {
  return Object.keys(kind === "ahead" ? { ...always, ...ahead } : always).filter((name) => reached[name as Situation] === 0);
}
