/** The engine's core in simulation, on machines that sample: the next step is started before the last one's tokens are known. */
import test from "node:test";
import { simulationTests } from "./many.ts";

simulationTests(test, "device");
