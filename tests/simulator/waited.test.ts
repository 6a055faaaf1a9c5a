/** The engine's core in simulation, on machines that are waited for: half of all operations, the other half is ahead.test.ts's (docs/simulator.md). */
import test from "node:test";
import { simulateAll, simulateTwice } from "./many.ts";

test("random operations keep every invariant, every answer is that of the request alone, and every situation is reached", () => simulateAll("waited"));

test("the same seed gives the same run", () => simulateTwice("waited"));
