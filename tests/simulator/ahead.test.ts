/** The engine's core in simulation, on machines that sample: the next step is started before the last one's tokens are known (docs/simulator.md). */
import test from "node:test";
import { simulateAll, simulateTwice } from "./many.ts";

test("random operations keep every invariant, every answer is that of the request alone, and every situation is reached", () => simulateAll("ahead"));

test("the same seed gives the same run", () => simulateTwice("ahead"));
